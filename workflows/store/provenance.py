"""Where a run comes from: slide, model, grid, mask, versions. A manifest of a run, the head of its report."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from qwenvl.checkpoints.training_domain import TrainedOn
from qwenvl.engines.base import ModelInfo
from qwenvl.request import Request
from workflows.run.quality import QualitySettings
from wsi.files.names import path_text
from wsi.grid import TileGrid
from wsi.readers.description import Description
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.slide import Slide
from wsi.tissue import TissueMask

RUN_NAMESPACE = uuid.UUID("5b0a4c1e-6e0f-5d8c-9a54-0f8f3f1c7a10")
"""Namespace of the UUIDs (RFC 9562, version 5) that name runs and their objects."""

_LIBRARIES = ("napari-qwenvl", "numpy", "opencv-python-headless", "openslide-python", "tifffile", "imagecodecs", "zarr")


class Facts(BaseModel):
    """Base of everything that is written to JSON: immutable, closed, free of NaN and infinity, and writable.

    Text from names that are no UTF-8 is kept as `wsi.files.names.path_text` writes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _writable(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: path_text(value) if isinstance(value, str) else value for name, value in data.items()}


class LevelFacts(Facts):
    """One resolution of the slide."""

    width: int = Field(description="Width in px of this level.")
    height: int = Field(description="Height in px of this level.")
    downsample: float = Field(description="Level-0 px per px of this level.")


class SlideFacts(Facts):
    """The slide as it was read."""

    name: str = Field(description="File or folder name.")
    path: str = Field(description="Path on the machine that ran it.")
    fingerprint: str = Field(description="Hash of the file's content.")
    reader: str
    options: dict[str, str] = Field(
        description="Plane, rendering, series and colour, in the words of the command line."
    )
    width: int = Field(description="Width in level-0 px.")
    height: int = Field(description="Height in level-0 px.")
    levels: tuple[LevelFacts, ...]
    mpp_x: float | None = Field(description="Micrometres per level-0 px along x; null when unknown.")
    mpp_y: float | None = Field(description="Micrometres per level-0 px along y; null when unknown.")
    mpp_source: str = Field(description="'file', 'user' or 'unknown'.")
    qupath_bounds: tuple[int, int, int, int] | None = Field(
        None,
        description="What QuPath shows of the slide: x0, y0, width and height in level-0 px; null in runs that were "
        "made before it was recorded.",
    )
    mpp_from: str = Field("", description="Where the file states the scale, in words; empty where it does not.")
    notes: tuple[str, ...] = Field(
        (), description="What was derived instead of stated, converted or left out, in one sentence each."
    )

    @property
    def frames(self) -> SlideFrames | None:
        """Level-0 px and QuPath's; None where the run is older than the record."""
        if self.qupath_bounds is None:
            return None
        return SlideFrames.cropped(self.qupath_bounds, (self.width, self.height))

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 px (geometric mean), or None when unknown."""
        if self.mpp_x is None or self.mpp_y is None:
            return None
        return float(np.sqrt(self.mpp_x * self.mpp_y))

    @property
    def mm2_per_px(self) -> float | None:
        """Area of one level-0 px in square millimetres, or None when the scale is unknown."""
        return None if self.mpp_x is None or self.mpp_y is None else self.mpp_x * self.mpp_y * 1e-6


class ModelFacts(Facts):
    """The model that answered; see `qwenvl.engines.base.ModelInfo`."""

    model: str
    family: str
    fingerprint: str = Field(description="Hash of weights and configuration.")
    dtype: str
    device: str
    adapter: str | None
    processor: dict[str, JsonValue] = Field(description="Settings that decide which pixels the model sees.")
    versions: dict[str, str] = Field(description="Versions of the libraries that ran it.")
    warning: str | None = Field(description="What a reader must know, such as 'not for diagnosis'.")
    trained: TrainedOn | None = Field(
        None,
        description="Side in px and scales in um/px of the pictures it was trained on; null where it does not say.",
    )


class GridFacts(Facts):
    """The tiles of the run."""

    tiles: int = Field(description="Number of tiles.")
    columns: int = Field(description="Columns of the whole grid, tiles without tissue included.")
    rows: int = Field(description="Rows of the whole grid, tiles without tissue included.")
    tile_size: int = Field(description="Side of a tile's picture in px.")
    overlap: int = Field(description="Least overlap of neighbouring tiles in px of the picture.")
    mpp: float | None = Field(description="Scale of the pictures in um/px; null when the slide's is unknown.")
    side0: tuple[int, int] = Field(description="Width and height of a tile in level-0 px.")
    step0: tuple[int, int] = Field(description="Distance of neighbouring tiles in level-0 px.")
    upsampling: float = Field(description="How many times finer than level 0 the pictures are; 1: not at all.")
    tissue_coverage: float = Field(description="Share of the tissue that lies in a tile.")
    hash: str = Field(description="Hash of every tile's rectangle and size.")


class PlanFacts(Facts):
    """Tiles of several scales within a token budget, chosen by what the overview shows; see `wsi.pixels.content`."""

    token_budget: int = Field(description="Most prompt tokens for the tiles.")
    tokens_per_tile: int = Field(description="Prompt tokens of one tile, its picture included.")
    tokens: int = Field(description="Prompt tokens of all planned tiles.")
    uniform_tokens: int = Field(description="Prompt tokens that tiles of the request's scale everywhere would take.")
    finest_mpp: float | None = Field(description="Scale of the finest tiles in um/px; null when unknown.")
    roots: int = Field(description="Tiles of the coarsest scale that the plan began with.")
    statistic: str = Field(description="What the tiles were chosen by.")


class GateFacts(Facts):
    """What the coarse tiles decided."""

    threshold: float = Field(description="Least probability of a place to be looked at.")
    mpp: float = Field(description="Scale of the coarse tiles in um/px.")
    scored: int = Field(description="Coarse tiles with a probability.")
    passed: int = Field(description="Of these, tiles with at least the threshold.")
    unknown: int = Field(
        description="Coarse tiles without a probability (failed): their place is looked at all the same."
    )
    tiles: int = Field(description="Tiles of the request on the whole tissue.")
    skipped: int = Field(description="Tiles that are not asked: all their tissue lies in places below the threshold.")


class MaskFacts(Facts):
    """The tissue that the tiles cover."""

    source: str = Field(description="'auto', 'all', another method, or the path of the mask that was given.")
    origin: str = Field(description="How the mask was made.")
    details: dict[str, JsonValue] = Field(
        description="Numbers of the method; 'on_threshold' is the share of the tissue that is tissue at 0.7 times the "
        "threshold and not at 1.4 times."
    )
    tissue_px0: float = Field(description="Tissue area in level-0 px.")
    tissue_mm2: float | None = Field(description="Tissue area in mm2; null when the scale is unknown.")
    tissue_fraction: float = Field(description="Share of the slide that is tissue.")
    frame: PixelFrame | None = Field(
        None,
        description="Frame of the coordinates in the mask's file, as the user gave it; null where nothing was given.",
    )


class Identified(Facts):
    """What a run is, whatever it is about."""

    @property
    def identity(self) -> dict[str, str]:
        """What has to be equal for two runs to be the same run, by the words used in messages."""
        raise NotImplementedError


class Manifest(Identified):
    """What a run is: written once, before the first tile is asked."""

    request: Request
    request_hash: str
    slide: SlideFacts
    model: ModelFacts
    grid: GridFacts
    mask: MaskFacts
    versions: dict[str, str]
    command: str | None = Field(description="The command line that started the run, where there was one.")
    created: str = Field(description="UTC time, ISO 8601.")
    plan: PlanFacts | None = Field(
        None, description="How tiles of several scales share a token budget; null without one."
    )
    quality: QualitySettings = Field(
        QualitySettings(), description="Which tiles quality control flags, and what becomes of them."
    )

    @property
    def roots(self) -> int:
        """Tiles of the grid that the run's tiles, or what they were split from, belong to."""
        return self.grid.tiles if self.plan is None else self.plan.roots

    @property
    def identity(self) -> dict[str, str]:
        """What has to be equal for two runs to be the same run, by the words used in messages."""
        slide = self.slide
        return {
            "request": self.request_hash,
            "slide": slide.fingerprint,
            "slide scale": f"{slide.mpp_x} x {slide.mpp_y} um/px",
            "plane and rendering": str(sorted(slide.options.items())),
            "model": f"{self.model.model} ({self.model.fingerprint})",
            "adapter": str(self.model.adapter),
            "grid": self.grid.hash,
            "quality control": self.quality.identity,
        }

    @property
    def run_id(self) -> uuid.UUID:
        """The same UUID for every repetition of one run, on any machine."""
        parts = dict(self.identity, model=self.model.fingerprint)
        if self.quality.mode == "off":
            del parts["quality control"]  # as in runs from before there was any
        return uuid.uuid5(RUN_NAMESPACE, "\n".join(f"{key}={value}" for key, value in parts.items()))


class ItemsManifest(Identified):
    """What a run is that is about no slide: written once, before the first item is asked."""

    kind: str = Field(description="What the items are: 'photographs' or 'answers'.")
    asked: dict[str, str] = Field(description="What is asked and how, by the words used in messages.")
    model: ModelFacts
    versions: dict[str, str]
    created: str = Field(description="UTC time, ISO 8601.")

    @property
    def identity(self) -> dict[str, str]:
        """What has to be equal for two runs to be the same run, by the words used in messages."""
        model = f"{self.model.model} ({self.model.fingerprint})"
        return {"kind": self.kind, **self.asked, "model": model, "adapter": str(self.model.adapter)}


def slide_facts(slide: Slide) -> SlideFacts:
    """Facts of an opened slide."""
    recorded: Mapping[str, str] = getattr(slide, "options", {})
    described: Description | None = getattr(slide, "description", None)
    mpp_x, mpp_y = slide.mpp_xy if slide.mpp_xy is not None else (None, None)
    return SlideFacts(
        name=path_text(slide.path.name),
        path=path_text(slide.path.absolute()),
        fingerprint=slide.fingerprint,
        reader=slide.reader,
        options={key: recorded[key] for key in ("plane", "rendering", "series", "colour") if key in recorded},
        width=slide.width,
        height=slide.height,
        levels=tuple(
            LevelFacts(width=level.width, height=level.height, downsample=level.downsample) for level in slide.levels
        ),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=slide.mpp_source,
        qupath_bounds=slide.qupath_bounds or (0, 0, slide.width, slide.height),
        mpp_from=described.mpp_from if described is not None and slide.mpp_source == "file" else "",
        notes=() if described is None else tuple(path_text(note) for note in described.notes),
    )


def model_facts(info: ModelInfo) -> ModelFacts:
    """Facts of the model behind an engine."""
    return ModelFacts(
        model=info.model,
        family=info.family,
        fingerprint=info.fingerprint,
        dtype=info.dtype,
        device=info.device,
        adapter=info.adapter,
        processor=plain_json(dict(info.processor)),
        versions=dict(info.versions),
        warning=info.warning,
        trained=info.trained,
    )


def grid_facts(grid: TileGrid, slide: Slide) -> GridFacts:
    """Facts of a grid."""
    return GridFacts(
        tiles=len(grid),
        columns=len(grid.columns0),
        rows=len(grid.rows0),
        tile_size=grid.tile_size,
        overlap=grid.overlap,
        mpp=None if slide.mpp is None else grid.scale * slide.mpp,
        side0=grid.side0,
        step0=grid.step0,
        upsampling=grid.upsampling,
        tissue_coverage=grid.tissue_coverage,
        hash=grid.hash,
    )


def mask_facts(mask: TissueMask, source: str, slide: Slide, frame: PixelFrame | str | None = None) -> MaskFacts:
    """Facts of a mask; `source` and `frame` are what the user asked for."""
    return MaskFacts(
        source=source,
        origin=mask.origin,
        details=plain_json(dict(mask.details)),
        tissue_px0=mask.area_px0,
        tissue_mm2=None if slide.mpp is None else mask.area_mm2(slide.mpp),
        tissue_fraction=mask.fraction,
        frame=None if frame is None or mask.origin != "geojson" else PixelFrame(frame),
    )


def software_versions(names: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Versions of Python and of the installed distributions among `names`."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def utc_now() -> str:
    """The time now, ISO 8601 with seconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain_json(value: object) -> Any:
    """`value` with paths, numpy numbers, tuples and the like turned into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_json(value.tolist())
    if isinstance(value, np.generic):
        return plain_json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(item) for item in value]
    return str(value)
