"""The target source: tiles of the lab's own labels, asked in the lab's own words."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from finetune.dataset.cutting import Cutter, LabelledCut
from finetune.dataset.samples import Dataset, SlideEntry
from finetune.examples.conversation import Exchange, Writer, object_turn
from finetune.examples.examples import Augmentation, ExamplePlan, MarkChange, Picture
from finetune.examples.tokens import TurnTokens
from qwenvl.images.processor import ProcessorSettings
from qwenvl.request import Request, Task
from wsi.slide import Slide
from wsi.tile import Tile

_OPEN = 64  # slides held open at a time
_POOL = 5  # seed of the tiles of a pool


class TileReader:
    """Pixels of a dataset's tiles; each slide is opened once and checked against its fingerprint then."""

    def __init__(self, dataset: Dataset, images: Path | None = None) -> None:
        self.dataset, self.images = dataset, images
        self._slide = lru_cache(maxsize=_OPEN)(self._open)

    def _open(self, slide: str) -> Slide:
        return self.dataset.open_slide(self.dataset.slide(slide), self.images)

    def read(self, slide: str, tile: Tile) -> Picture:
        """Pixels of a tile, uint8 (height, width, 3).

        Raises
        ------
        SlideChangedError
            The slide was rewritten since it was opened: its labels are of the file as it was.
        """
        opened = self._slide(slide)
        with opened.watch.guarded():
            return opened.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height))


class LabelSource:
    """Draws tiles of one split and asks about them.

    Parameters
    ----------
    cutter : Cutter
    split : str
    request : Request
        The question that is taught; `labels` are the classes in the order they are asked for.
    tasks : mapping of Task to weight
        Which questions are asked how often; the others are made of the same labels.
    empty_share : float
        Most tiles without any label, as a share of all draws.
    around_share : float
        Draws centred on a label, every class equally often, so that rare ones are seen; the rest is drawn anywhere.
    """

    def __init__(
        self,
        cutter: Cutter,
        split: str,
        request: Request,
        writer: Writer,
        tokens: TurnTokens,
        processor: ProcessorSettings,
        *,
        tasks: Mapping[Task, float] | None = None,
        augment: Augmentation | None = None,
        empty_share: float = 0.15,
        around_share: float = 0.3,
        images: Path | None = None,
        name: str = "labels",
    ) -> None:
        self.name, self.request, self.writer = name, request, writer
        self._tokens, self.processor = tokens, processor
        self.cutter, self._augment = cutter, augment or Augmentation()
        weights = dict(tasks) if tasks else {request.task: 1.0}
        self._tasks, total = list(weights), sum(weights.values())
        self._shares = [weight / total for weight in weights.values()]
        self._empty, self._around = empty_share, around_share
        self.reader = TileReader(cutter.dataset, images)
        self.slides = cutter.usable(split)
        self._by_class: dict[str, list[tuple[SlideEntry, int]]] = {}
        for entry in self.slides:
            for number, label in enumerate(cutter.labels_of(entry)):
                self._by_class.setdefault(label.name, []).append((entry, number))
        self._scaled = lru_cache(maxsize=64)(self._make_scaled)

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw a tile, a change and a question."""
        task = self._tasks[int(rng.choice(len(self._tasks), p=self._shares))]
        if self._augment.pool:
            rng = np.random.default_rng([_POOL, int(rng.integers(self._augment.pool))])
        cut = self._draw(rng)
        change = MarkChange.draw(self._augment, rng, square=cut.tile.width == cut.tile.height)
        return self.plan_of(cut, change, task)

    def plan_of(self, cut: LabelledCut, change: MarkChange | None = None, task: Task | None = None) -> ExamplePlan:
        """The example of one tile."""
        change = change or MarkChange()
        width, height = cut.tile.width, cut.tile.height
        objects = change.objects(cut.objects, width, height)
        if change.quarters % 2:
            width, height = height, width
        frame = self.processor.frame(width, height)
        request = self.request if task in (None, self.request.task) else replace_task(self.request, task)
        turn: Exchange = object_turn(self.writer, request, objects, frame)
        tokens = self._tokens.turn(turn, [self.processor.image_tokens(frame)])

        def load() -> Picture:
            return change.picture(self.reader.read(cut.slide, cut.tile))

        # Colours that are drawn anew each time do not come again.
        again = change.seed is None or self._augment.pool > 0
        key = f"{cut.key}/{change.key}" if again else None
        return ExamplePlan(self.name, tokens, turn, load, key)

    def _make_scaled(self, tenth: int) -> Cutter:
        spec = self.cutter.spec
        scaled = spec.model_copy(
            update={"mpp": spec.mpp and spec.mpp * tenth / 10}
            if spec.mpp is not None
            else {"downsample": (spec.downsample or 1.0) * tenth / 10}
        )
        return Cutter(self.cutter.dataset, scaled, self.cutter.names)

    def _draw(self, rng: np.random.Generator) -> LabelledCut:
        cutter = self.cutter
        if self._augment.scale > 1:
            tenth = round(10 * self._augment.scale ** rng.uniform(-1, 1))
            cutter = self._scaled(tenth) if tenth != 10 else cutter
        allow_empty = rng.random() < self._empty
        cut: LabelledCut | None = None
        for _ in range(20):
            if self._by_class and not allow_empty and rng.random() < self._around:
                members = self._by_class[sorted(self._by_class)[int(rng.integers(len(self._by_class)))]]
                entry, number = members[int(rng.integers(len(members)))]
                cut = cutter.around(entry, cutter.labels_of(entry)[number], rng)
            else:
                cut = cutter.anywhere(self.slides[int(rng.integers(len(self.slides)))], rng)
            if cut is not None and (allow_empty or cut.objects):
                return cut
        if cut is not None:
            return cut
        grid = self.cutter.grid(self.slides[int(rng.integers(len(self.slides)))])
        return grid[int(rng.integers(len(grid)))]


def replace_task(request: Request, task: Task) -> Request:
    """The same labels, asked as another task."""
    return Request(
        task=task,
        labels=request.labels,
        system_prompt=request.system_prompt,
        mpp=request.mpp,
        tile_size=request.tile_size,
        overlap=request.overlap,
        max_objects=request.max_objects,
        generation=request.generation,
    )


def validation_cuts(cutter: Cutter, split: str, *, most: int | None = None, seed: int = 0) -> list[LabelledCut]:
    """Tiles for measuring: side by side over the areas of a split; of more than `most`, some drawn once."""
    cuts = [cut for entry in cutter.usable(split) for cut in cutter.grid(entry, overlap=0.0)]
    if most is not None and len(cuts) > most:
        chosen = np.random.default_rng(seed).permutation(len(cuts))[:most]
        cuts = [cuts[i] for i in sorted(chosen.tolist())]
    return cuts
