"""From the Ask panel's fields to a run: the request, its tiles, what it costs, and how to say it elsewhere."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qwenvl.checkpoints.recommended import recommended_of
from workflows.run.options import RunOptions
from wsi.regions.frames import HEAD, PixelFrame, SlideFrames

if TYPE_CHECKING:
    from qwenvl.request import Request
    from workflows.store.provenance import Manifest

_PROMPTED = ("score", "ask")
LABELLED = ("detect", "point", "count", "classify")
_FEW_TILES = 48
_SMALL_BATCH = 4
"""Tiles handed over at once where there are few: boxes come sooner, and the whole still takes seconds."""


@dataclass(frozen=True)
class PanelQuestion:
    """What the panel asks: task, labels, words, and the run's options as on the command line.

    `options` fields that are None take what the checkpoint recommends, else the default of `Request`.
    """

    task: str
    labels: tuple[str, ...] = ()
    prompt: str | None = None
    schema: Path | None = None
    options: RunOptions = field(default_factory=RunOptions)

    def request(self, recommended: Mapping[str, object]) -> Request:
        """The request, as the command line would build it.

        Raises
        ------
        pydantic.ValidationError
            The fields do not fit the task.
        RequestError
            The schema's file cannot be used.
        """
        from qwenvl.constraints.json_schema import read_schema
        from workflows.run.options import recommended_request

        fields: dict[str, object] = {"task": self.task, "prompt": self.prompt or None}
        if self.task in LABELLED:
            fields["labels"] = self.labels
        if self.task == "extract" and self.schema is not None:
            fields["output_schema"] = read_schema(self.schema)
        return recommended_request(self.options, recommended, **fields)


@dataclass(frozen=True)
class AskPlan:
    """A run that is ready to start.

    Attributes
    ----------
    slide : Path
    question : PanelQuestion
        With every option that decides the answer written out, so that it is exact without the checkpoint's
        recommendations.
    request : Request
    out : Path
        Run folder: the same for the same question about the same place, so that Run goes on where it stopped.
    """

    slide: Path
    question: PanelQuestion
    request: Request
    out: Path
    fingerprint: str = ""
    """Of the slide that the viewer shows: another one at its path is refused."""

    @classmethod
    def of(
        cls, slide: Path, question: PanelQuestion, recommended: Mapping[str, object], *, runs: Path, mask_hash: str = ""
    ) -> AskPlan:
        """Fill in what the checkpoint recommends and name the run folder inside `runs`."""
        request = question.request(recommended)
        options, generation = question.options, request.generation
        explicit = replace(
            options,
            mpp=request.mpp,
            native=request.mpp is None,
            tile_size=request.tile_size,
            overlap=request.overlap,
            max_objects=request.max_objects,
            max_new_tokens=generation.max_new_tokens,
        )
        parts: tuple[object, ...] = (
            request.hash,
            options.model,
            options.server,
            options.mask,
            mask_hash,
            options.plane,
            options.slide_mpp,
            options.rendering,
            options.series,
            options.dtype,
        )
        if options.adapter is not None:
            parts += (str(options.adapter), adapter_stamp(options.adapter))
        digest = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8]
        out = runs / f"{slide.stem}.{request.task}-{digest}.run"
        return cls(slide, replace(question, options=replace(explicit, out=out)), request, out)

    @classmethod
    def of_run(cls, folder: Path, manifest: Manifest, slide: Path, server: str | None = None) -> AskPlan:
        """What goes on with a run that was interrupted, wherever it was begun.

        Raises
        ------
        ValueError
            Its model was asked through a server, and `server` does not say where that is now.
        """
        model, request, family = manifest.model.model, manifest.request, None
        if manifest.model.device == "server":
            if server is None:
                raise ValueError(
                    f"{model} was asked through a server. Give its address under 'Scale, tiles, decoding', then go on."
                )
            model, family = model.rpartition("@")[0], manifest.model.family
        opened, sampling = manifest.slide.options, request.generation
        options = RunOptions(
            out=folder,
            model=model,
            dtype=manifest.model.dtype,
            server=server,
            family=family,
            adapter=None if manifest.model.adapter is None else Path(manifest.model.adapter),
            mask=manifest.mask.source,
            frame=manifest.mask.frame,
            slide_mpp=manifest.slide.mpp if manifest.slide.mpp_source == "user" else None,
            plane=opened.get("plane"),
            rendering=opened.get("rendering"),
            series=int(opened["series"]) if "series" in opened else None,
            colour=opened.get("colour"),
            mpp=request.mpp,
            native=request.mpp is None,
            tile_size=request.tile_size,
            overlap=request.overlap,
            max_objects=request.max_objects,
            max_new_tokens=sampling.max_new_tokens,
            min_tissue=request.min_tissue,
            temperature=sampling.temperature,
            seed=sampling.seed,
        )
        question = PanelQuestion(request.task.value, request.labels, request.prompt, None, options)
        return cls(slide, question, request, folder)

    def command(self) -> str:
        """The command line that makes this very run."""
        question = self.question
        words = ["qwenvl", question.task, str(self.slide)]
        if question.task in _PROMPTED:
            words.append(question.prompt or "")
        elif question.prompt:
            words += ["-p", question.prompt]
        if question.task in LABELLED:
            words += ["-l", ",".join(question.labels)]
        if question.schema is not None:
            words += ["--schema", str(question.schema)]
        return shlex.join([*words, *_flags(question.options)])

    def python(self) -> str:
        """The same run as a Python script."""
        options = self.question.options
        if options.server is not None:
            model = None if options.model == "embedded" else options.model
            engine = (
                f"RemoteEngine({options.server!r}, model={model!r}, family={options.family!r}, "
                f"concurrency={options.concurrency})"
            )
        else:
            adapter = "" if options.adapter is None else f", adapter={str(options.adapter)!r}"
            engine = f"LocalEngine.load({options.model!r}, device={options.device!r}, dtype={options.dtype!r}{adapter})"
        chosen = {key: getattr(options, key) for key in ("plane", "rendering", "series", "colour")}
        slide_options = {key: value for key, value in chosen.items() if value is not None}
        lines = [
            f"from qwenvl import {engine.split('(')[0].split('.')[0]}, Request",
            "from workflows import run_slide",
            "",
            f"request = Request.model_validate_json({_literal(self.request.model_dump_json(exclude_defaults=True))})",
            f"engine = {engine}",
            "result = run_slide(",
            f"    {str(self.slide)!r},",
            "    request,",
            "    engine,",
            f"    {str(self.out)!r},",
            *([f"    slide_mpp={options.slide_mpp!r},"] if options.slide_mpp is not None else []),
            *([f"    slide_options={slide_options!r},"] if slide_options else []),
            f"    mask={options.mask!r},",
            *([f"    frame={str(options.frame)!r},"] if options.frame is not None else []),
            ")",
            'print(result.folder / "report.json")',
        ]
        return "\n".join(lines) + "\n"

    def for_worker(self, tiles: int) -> dict[str, object]:
        """What `Worker.run` takes."""
        return {
            "slide": str(self.slide),
            "fingerprint": self.fingerprint,
            "out": str(self.out),
            "model": model_fields(self.question.options),
            "request": self.request.model_dump(mode="json"),
            "mask": self.question.options.mask,
            "frame": self.question.options.frame,
            "command": self.command(),
            "pace": _SMALL_BATCH if tiles <= _FEW_TILES else None,
            "overview": tiles > _FEW_TILES,
        }


def model_fields(options: RunOptions) -> dict[str, object]:
    """The options that say which model, and how slide and pixels are opened, as plain values."""
    names = (
        "model",
        "server",
        "family",
        "concurrency",
        "device",
        "dtype",
        "slide_mpp",
        "plane",
        "rendering",
        "series",
        "colour",
    )
    adapter = None if options.adapter is None else str(options.adapter)
    return {name: getattr(options, name) for name in names} | {"adapter": adapter}


def adapter_stamp(folder: Path) -> str:
    """What tells one training of an adapter from another in the same folder; '' where there is none."""
    weights = folder / "adapter_model.safetensors"
    return f"{weights.stat().st_size}:{weights.stat().st_mtime_ns}" if weights.is_file() else ""


def _literal(text: str) -> str:
    """A string literal of readable JSON."""
    return f"'{text}'" if "'" not in text and "\\" not in text else repr(text)


def _flags(options: RunOptions) -> list[str]:
    """Flags of the options that are not at their default."""
    words: list[str] = []
    for each in fields(options):
        value = getattr(options, each.name)
        if value == each.default:
            continue
        flag = "-o" if each.name == "out" else "--" + each.name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return words


# ---------------------------------------------------------------------- where


def write_regions(
    folder: Path, polygons: Sequence[ArrayLike], size: tuple[int, int], bounds: tuple[int, int, int, int] | None = None
) -> Path:
    """Write regions as the GeoJSON that `--mask` takes; the same regions give the same file.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    polygons : sequence of array (n, 2)
        Corners (x0, y0) in level-0 px.
    size : (width, height)
        Of the slide; regions are cut to it.
    bounds : (x0, y0, width, height), optional
        The slide's `qupath_bounds`. The file stays in level-0 px, and records so.

    Raises
    ------
    ValueError
        No region lies on the slide.
    """
    import shapely

    slide = shapely.box(0, 0, *size)
    parts = [shapely.make_valid(shapely.Polygon(np.asarray(p, float))).intersection(slide) for p in polygons]
    areas = shapely.union_all([part for part in parts if part.area >= 1])
    if areas.is_empty:
        raise ValueError("No region lies on the slide. Draw one over it, or move the slide into view.")
    rounded = shapely.set_precision(areas, 1.0)
    geometry = json.loads(shapely.to_geojson(rounded if not rounded.is_empty else areas))
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    head = {HEAD: SlideFrames.cropped(bounds, size).record(PixelFrame.LEVEL0)}
    text = json.dumps({"type": "FeatureCollection", **head, "features": [feature]})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"regions-{hashlib.sha256(text.encode()).hexdigest()[:8]}.geojson"
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return path


def runs_folder(slide: Path, chosen: str | None = None) -> Path:
    """Where runs of a slide go: in the folder of the preferences, else beside the slide, else in the user's home.

    Parameters
    ----------
    chosen : str, optional
        In place of the preferences; '' for none.
    """
    import os

    if chosen is None:
        from napari_qwenvl.preferences import preferences

        chosen = preferences().folder
    if chosen.strip():
        # Slides of one name in different folders are different slides.
        place = hashlib.sha256(str(slide.absolute().parent).encode()).hexdigest()[:6]
        return Path(chosen.strip()).expanduser() / f"{slide.stem}-{place}.qwenvl"
    if os.access(slide.parent, os.W_OK):
        return slide.parent / f"{slide.stem}.qwenvl"
    return Path.home() / "qwenvl-runs" / slide.stem


def rectangle_of(field: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Corners (4, 2) of x_min, y_min, x_max, y_max."""
    x_min, y_min, x_max, y_max = field
    return np.array([[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]], float)


__all__ = ["AskPlan", "PanelQuestion", "recommended_of", "runs_folder", "write_regions"]
