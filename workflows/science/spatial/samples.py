"""Grounding samples: tiles of sections with questions about expression and their measured answers.

Answers are written in the words and coordinates of one model family, as `conversations.jsonl` (ChatML messages) beside
the tiles, which `qwenvl finetune` takes as `conversations`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import TileObject
from qwenvl.prompts import build_prompt
from qwenvl.request import Request
from qwenvl.writing import Writer
from workflows.errors import SpatialError
from workflows.science.spatial._folder import new_folder
from workflows.science.spatial.questions import (
    ExpressionScale,
    region_label,
    region_question,
    spot_question,
    spot_tiles,
)
from workflows.science.spatial.regions import ExpressionLevel, join_regions, smooth
from workflows.science.spatial.sections.genes import ExpressionTarget, expression, find_genes
from workflows.science.spatial.sections.listing import HELD_OUT, TRAIN, OpenedSection, SectionEntry, check_split, opened
from workflows.store.provenance import plain_json, slide_facts, software_versions, utc_now
from workflows.store.rows import tile_of
from wsi.grid import TileGrid
from wsi.slide import Slide
from wsi.threads import thread_pool
from wsi.tile import Tile

if TYPE_CHECKING:
    from qwenvl.images.processor import ProcessorSettings

CONVERSATIONS = "conversations.jsonl"
HELD_OUT_FILE = "held_out.jsonl"
FACTS = "samples.json"

LEAST_MEASURED = 0.8
"""Share of a tile's tissue that has to lie within a pitch of a spot: elsewhere nobody measured."""

_LEAST_SEEN = 0.3  # share of a region's box inside a tile below which the tile is not asked about the region
_LEAST_TISSUE = 0.02


@dataclass(frozen=True)
class SampleSettings:
    """What samples are made of.

    Attributes
    ----------
    level : ExpressionLevel
        Spots whose smoothed value is above it, on their own slide, are answered with yes.
    margin : float
        Share of the spots nearest to that threshold that are not asked about: chance decides on which side they are.
    region_level : ExpressionLevel
        Smoothed spots above it form regions.
    least : int
        Regions of fewer spots are left out.
    rounds : int
        Rounds of smoothing over neighbours before spots are parted and regions formed; 0 for none.
    tasks : tuple of str
        'spots' (yes or no), 'regions' (boxes).
    mpp, tile_size, region_mpp
        See `ExpressionScale`.
    most_spots : int, optional
        At most so many spots of a section, drawn with `seed`.
    split_by : str
        See `check_split`.
    """

    level: ExpressionLevel = field(default_factory=ExpressionLevel)
    margin: float = 0.3
    region_level: ExpressionLevel = field(default_factory=lambda: ExpressionLevel("q0.75"))
    least: int = 3
    rounds: int = 1
    tasks: tuple[Literal["spots", "regions"], ...] = ("spots", "regions")
    mpp: float = 0.5
    tile_size: int = 256
    region_mpp: float | None = None
    most_spots: int | None = None
    seed: int = 0
    split_by: Literal["patient", "section"] = "patient"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise SpatialError(f"margin {self.margin}: give a share of the spots from 0 to below 1.")

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        named = ("least", "rounds", "tasks", "mpp", "tile_size", "region_mpp", "most_spots", "seed", "split_by")
        return {
            "level": self.level.words,
            "region_level": self.region_level.words,
            **{name: plain_json(getattr(self, name)) for name in named},
        }


@dataclass
class SampleCounts:
    """What was written."""

    tiles: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    yes: int = 0
    no: int = 0
    unclear: int = 0
    """Questions left out because the spot is too near to the threshold."""
    boxes: int = 0
    empty: int = 0
    """Questions about regions whose answer is that there is none."""
    unmeasured: int = 0
    """Tiles left out because too much of their tissue was not measured."""

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def write_samples(
    entries: Sequence[SectionEntry],
    targets: Sequence[ExpressionTarget],
    out: Path,
    writer: Writer,
    processor: ProcessorSettings,
    settings: SampleSettings | None = None,
    *,
    overwrite: bool = False,
    command: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write samples of several sections; those held out go into a file of their own.

    Parameters
    ----------
    writer : Writer
        Of the model family that is going to be trained.
    processor : ProcessorSettings
        Of the same checkpoint: the size that its vision tower sees decides about coordinates.
    overwrite : bool
        Set aside what lies in `out` (renamed, not deleted).

    Returns
    -------
    dict
        Content of `samples.json`: sections, thresholds, counts, notes.

    Raises
    ------
    SpatialError
        See `check_split`, `read_section`, `check_fit`, `find_genes`.
    ReadError
        A tile cannot be read; nothing is left half written.
    """
    settings = settings or SampleSettings()
    notes = check_split(entries, by=settings.split_by)
    names = [entry.name for entry in entries if entry.name]
    if len(set(names)) < len(names):
        raise SpatialError(f"{names} names a section twice.")
    sections: list[dict[str, object]] = []
    with new_folder(out, FACTS, overwrite=overwrite) as folder:
        rows: dict[str, list[dict[str, Any]]] = {TRAIN: [], HELD_OUT: []}
        for number, entry in enumerate(entries):
            with opened(entry) as found:
                if progress is not None:
                    progress(f"{found.section.name}: {found.section.counts.n_obs:,} spots")
                written = _SectionWriter(found, targets, folder, f"{number:02d}", writer, processor, settings)
                rows[entry.split] += list(written.rows())
                sections.append(written.facts(entry))
        for split, file in ((TRAIN, CONVERSATIONS), (HELD_OUT, HELD_OUT_FILE)):
            if rows[split]:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split])
                (folder / file).write_text(text, encoding="utf-8")
        facts = {
            "targets": [str(target) for target in targets],
            "family": writer.family.name,
            "settings": settings.facts(),
            "rows": {split: len(found) for split, found in rows.items()},
            "sections": sections,
            "notes": list(notes),
            "versions": software_versions(("napari-qwenvl", "scanpy", "anndata", "numpy")),
            "created": utc_now(),
            "command": command,
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


class _SectionWriter:
    """The samples of one section."""

    def __init__(
        self,
        found: OpenedSection,
        targets: Sequence[ExpressionTarget],
        folder: Path,
        prefix: str,
        writer: Writer,
        processor: ProcessorSettings,
        settings: SampleSettings,
    ) -> None:
        self.found, self.settings = found, settings
        self.writer, self.processor = writer, processor
        self.targets = find_genes(found.section, targets)
        self.values = expression(found.section, self.targets)
        self.scale = ExpressionScale.of(
            found.section, mpp=settings.mpp, tile_size=settings.tile_size, region_mpp=settings.region_mpp
        )
        name = re.sub(r"[^A-Za-z0-9._-]", "_", found.section.name)
        self.folder, self.place = folder, f"tiles/{prefix}_{name}"
        (folder / self.place).mkdir(parents=True)
        self.counts = SampleCounts()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Write the tiles and give a row per question."""
        if "spots" in self.settings.tasks:
            yield from self._spots()
        if "regions" in self.settings.tasks:
            yield from self._regions()

    def facts(self, entry: SectionEntry) -> dict[str, Any]:
        """What is known of the section and its samples."""
        levels = {
            target.name: float(self.settings.level.of(self.values[:, i])) for i, target in enumerate(self.targets)
        }
        return plain_json(
            {
                **self.found.section.facts(),
                "split": entry.split,
                "patient": entry.patient,
                "slide": slide_facts(self.found.slide).model_dump(mode="json"),
                "fit": self.found.fit.facts(),
                "region_mpp": self.scale.region_mpp,
                "thresholds": levels,
                "counts": self.counts.facts(),
            }
        )

    def _smoothed(self) -> NDArray[np.float64]:
        section = self.found.section
        return smooth(self.values, section.places0, section.pitch0, self.settings.rounds)

    def _spots(self) -> Iterator[dict[str, Any]]:
        questions = [spot_question(target.name, self.scale) for target in self.targets]
        table = spot_tiles(self.found.section, self.found.slide, questions[0])
        chosen = np.arange(len(table))
        if self.settings.most_spots is not None and len(chosen) > self.settings.most_spots:
            rng = np.random.default_rng(self.settings.seed)
            chosen = np.sort(rng.permutation(len(table))[: self.settings.most_spots])
        parted = [part_spots(column, self.settings.level, self.settings.margin) for column in self._smoothed().T]
        high, clear = (np.stack(columns, axis=1) for columns in zip(*parted, strict=True))
        pictures = [f"{self.place}/spot_{row:06d}.png" for row in chosen.tolist()]
        self._save([tile_of(table[row]) for row in chosen], pictures)
        words = [build_prompt(question) for question in questions]
        for row, picture in zip(chosen.tolist(), pictures, strict=True):
            for column, question in enumerate(words):
                if not clear[row, column]:
                    self.counts.unclear += 1
                    continue
                yes = bool(high[row, column])
                self.counts.yes += yes
                self.counts.no += not yes
                yield self._row(picture, question, "yes" if yes else "no")
        self.counts.questions["spots"] = self.counts.yes + self.counts.no

    def _regions(self) -> Iterator[dict[str, Any]]:
        section, slide = self.found.section, self.found.slide
        questions = [region_question(target.name, self.scale) for target in self.targets]
        grid = TileGrid.from_slide(
            slide,
            tile_size=self.scale.tile_size,
            overlap=questions[0].overlap,
            mpp=self.scale.region_mpp,
            mask=self.found.mask,
            min_tissue=_LEAST_TISSUE,
        )
        measured = measured_share(section.places0, section.pitch0, grid, self.found)
        tiles = [tile for tile in grid if measured[tile.index] >= LEAST_MEASURED]
        self.counts.unmeasured = len(grid) - len(tiles)
        pictures = [f"{self.place}/region_{tile.index:06d}.png" for tile in tiles]
        self._save(tiles, pictures)
        size0 = slide.width, slide.height
        for column, (target, question) in enumerate(zip(self.targets, questions, strict=True)):
            boxes, _ = regions_of(
                self.values[:, column],
                section.places0,
                section.pitch0,
                self.settings.region_level,
                least=self.settings.least,
                rounds=self.settings.rounds,
                size0=size0,
            )
            for tile, picture in zip(tiles, pictures, strict=True):
                seen = boxes_in_tile(boxes, tile)
                if seen is None:
                    continue
                self.counts.boxes += len(seen)
                self.counts.empty += not len(seen)
                self.counts.questions["regions"] = self.counts.questions.get("regions", 0) + 1
                yield self._row(picture, build_prompt(question), self._boxes(seen, target.name, question))

    def _boxes(self, seen: NDArray[np.float64], name: str, question: Request) -> str:
        frame = self.processor.frame(question.tile_size, question.tile_size)
        objects = [TileObject(region_label(name), box=tuple(box)) for box in seen.tolist()]
        return self.writer.answer(question.task, objects, frame)

    def _row(self, picture: str, question: str, answer: str) -> dict[str, Any]:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}

    def _save(self, tiles: Sequence[Tile], pictures: Sequence[str]) -> None:
        """Read the tiles and write them as PNG, a thread per core of two; the first that fails ends it."""
        jobs = list(zip(tiles, pictures, strict=True))
        with thread_pool(2, "samples") as pool:
            for _ in pool.map(lambda job: save_tile(self.found.slide, job[0], self.folder / job[1]), jobs):
                self.counts.tiles += 1


def part_spots(
    values: NDArray[np.float64], level: ExpressionLevel, margin: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which spots are high, and which are far enough from the threshold to be asked about; bool (n,) each.

    Left out are the `margin` share of the spots nearest to the threshold by rank, half of them on either side.
    """
    high = level.high(values)
    known = np.isfinite(values)
    below = int((known & ~high).sum())
    rank = np.full(len(values), -1)
    rank[np.flatnonzero(known)[np.argsort(values[known], kind="stable")]] = np.arange(int(known.sum()))
    half = margin * int(known.sum()) / 2
    return high, known & ((rank < below - half) | (rank >= below + half))


def save_tile(slide: Slide, tile: Tile, path: Path) -> None:
    """Write a tile as PNG, its pixels unchanged. Raises ReadError, or OSError where it cannot be written."""
    from wsi.files.image_files import write_png

    pixels = slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))
    # Little compression: tissue is mostly noise, and the strongest takes ten times as long for a tenth less.
    write_png(path, pixels, compression=1)


def regions_of(
    values: NDArray[np.float64],
    places0: NDArray[np.float64],
    pitch0: float,
    level: ExpressionLevel,
    *,
    least: int = 3,
    rounds: int = 1,
    size0: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes in level-0 px of regions of high values, and the region of every spot; see `join_regions`."""
    smoothed = smooth(values, places0, pitch0, rounds)
    return join_regions(level.high(smoothed), places0, pitch0, least=least, size0=size0)


def boxes_in_tile(boxes0: NDArray[np.float64], tile: Tile) -> NDArray[np.float64] | None:
    """Boxes of regions as a tile shows them, float64 (k, 4) in px of its picture; cut at its edges.

    A region that is mostly outside is left out where it covers little of the tile. Where such a rest covers much of
    it, nothing right can be said of the tile: None.
    """
    if not len(boxes0):
        return np.empty((0, 4))
    low0, high0 = np.array([tile.x0, tile.y0]), np.array([tile.x0 + tile.width0, tile.y0 + tile.height0])
    cut = np.concatenate([np.maximum(boxes0[:, :2], low0), np.minimum(boxes0[:, 2:], high0)], axis=1)
    shown = np.prod(np.clip(cut[:, 2:] - cut[:, :2], 0, None), axis=1)
    whole = np.prod(boxes0[:, 2:] - boxes0[:, :2], axis=1)
    tile0 = float(tile.width0 * tile.height0)
    kept = (shown >= _LEAST_SEEN * whole) | (shown >= _LEAST_SEEN * tile0)
    if (shown[~kept] > 0.02 * tile0).any():
        return None
    scale = np.array([tile.width / tile.width0, tile.height / tile.height0] * 2)
    return (cut[kept] - np.tile(low0, 2)) * scale


def measured_share(
    places0: NDArray[np.float64], pitch0: float, grid: TileGrid, found: OpenedSection
) -> NDArray[np.float64]:
    """Share of every tile's tissue that lies within a pitch of a spot, float64 (tiles,); 0 where there is no tissue."""
    from scipy.ndimage import distance_transform_edt

    mask = found.mask
    rows, columns = mask.array.shape
    spots = np.ones((rows, columns), bool)
    at = np.floor(places0 / mask.scale_xy).astype(int)
    spots[np.clip(at[:, 1], 0, rows - 1), np.clip(at[:, 0], 0, columns - 1)] = False
    distance0 = distance_transform_edt(spots, sampling=(mask.scale_xy[1], mask.scale_xy[0]))
    near = type(mask)(mask.array & (distance0 <= pitch0), mask.scale_xy)
    tissue, measured = mask.coverage(grid.rects), near.coverage(grid.rects)
    return np.where(tissue > 0, measured / np.maximum(tissue, 1e-12), 0.0)
