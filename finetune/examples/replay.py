"""Replay: examples of older skills, so that learning a new one does not cost them.

Much forgetting is of answer styles and of other questions about the pictures that are learned, so the
cheapest replay needs no foreign data: the model's own answers, from before, to other questions about the same tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import ReplaySource
from finetune.conversations.formats import Conversation, read_conversations
from finetune.conversations.given import ConversationSource
from finetune.dataset.cutting import Cutter, TileSpec
from finetune.dataset.samples import Dataset
from finetune.errors import RecipeError
from finetune.evaluation.evaluate import Exam
from finetune.evaluation.forgetting import AnsweredSkill, LabelledSkill, RetentionTest
from finetune.examples.conversation import Exchange, Writer
from finetune.examples.examples import Augmentation, ExamplePlan, ExampleSource, Picture
from finetune.examples.label_source import LabelSource, TileReader, validation_cuts
from finetune.examples.synthetic_tissue import FieldSkill, FieldSource
from finetune.examples.tokens import TurnTokens
from qwenvl.answer import Answer
from qwenvl.checkpoints.loading import Checkpoint
from qwenvl.engines.base import Engine
from qwenvl.engines.questions import answer_each
from qwenvl.images.images import check_picture
from qwenvl.prompts import build_prompt
from qwenvl.request import Generation, Request, Task
from qwenvl.subject import NamedPicture, Subject

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_BATCH = 16


@dataclass(frozen=True)
class ReplayContext:
    """What every source needs: the checkpoint as it was, and how its answers become tokens."""

    checkpoint: Checkpoint
    writer: Writer
    tokens: TurnTokens
    seed: int
    longest: int

    def plan(
        self,
        name: str,
        turn: Exchange,
        load: Callable[[], Picture] | None,
        size: tuple[int, int] | None,
        key: str | None,
    ) -> ExamplePlan:
        """An example about a picture of `size` (width, height), or about none."""
        visual: list[int] = []
        if size is not None:
            processor = self.checkpoint.processor
            visual = [processor.image_tokens(processor.frame(*size))]
        return ExamplePlan(name, self.tokens.turn(turn, visual), turn, load, key)


@dataclass(frozen=True)
class ReplayItem:
    """A picture (or none), a question about it and its answer."""

    turn: Exchange
    load: Callable[[], Picture] | None
    size: tuple[int, int] | None
    key: str | None


Load = tuple[Callable[[], Picture] | None, tuple[int, int] | None, str | None]
"""How a picture is read, its size and its key; all None for words alone."""


@dataclass(frozen=True)
class ReplayTarget:
    """What is learned, as far as replay needs to know it.

    Attributes
    ----------
    size : int
        Side of its tiles in px.
    pictures : callable
        Draws at most so many of its pictures.
    pool : int
        Of its `Augmentation`; tiles of datasets that are replayed come again likewise.
    """

    size: int
    pictures: Callable[[np.random.Generator, int], list[Load]]
    pool: int = 0


class AnsweredSource:
    """Questions with fixed answers, drawn evenly."""

    def __init__(self, name: str, items: Sequence[ReplayItem], kit: ReplayContext) -> None:
        if not items:
            raise RecipeError(f"replay source {name}: nothing to learn from; give it more pictures or other questions")
        self.name, self._items, self._kit = name, list(items), kit

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw a question with its answer."""
        item = self._items[int(rng.integers(len(self._items)))]
        return self._kit.plan(self.name, item.turn, item.load, item.size, item.key)


SourceMaker = Callable[[ReplaySource, ReplayContext, Engine, ReplayTarget], tuple[ExampleSource, RetentionTest | None]]
"""Makes a source of a kind, and what measures what it keeps."""


def build_sources(
    settings: Sequence[ReplaySource],
    kit: ReplayContext,
    engine: Engine,
    target: ReplayTarget,
    further: Mapping[str, SourceMaker] | None = None,
) -> tuple[list[ExampleSource], list[RetentionTest]]:
    """Sources and the hold-outs that measure what they keep.

    Parameters
    ----------
    engine : Engine
        The model before training; it writes the answers of sources that have none.
    target : ReplayTarget
        What is learned; 'tiles' asks about its pictures.
    further : mapping of kind to SourceMaker, optional
        Kinds beside those of `ReplaySource`.

    Raises
    ------
    RecipeError, DatasetError
    """
    sources: list[ExampleSource] = []
    skills: list[RetentionTest] = []
    makers = {**_MAKERS, **(further or {})}
    for number, each in enumerate(settings):
        maker = makers[each.kind]
        source, skill = maker(each, replace(kit, seed=kit.seed + number), engine, target)
        sources.append(source)
        if skill is not None:
            skills.append(skill)
    return sources, skills


def requests_of(settings: ReplaySource, kit: ReplayContext, size: int) -> list[Request]:
    """The questions of a source; the checkpoint's own tasks where none are given."""
    generation = Generation(max_new_tokens=kit.longest)
    if settings.questions:
        return [
            Request(**{"generation": generation, "tile_size": size, "overlap": 0, **question})
            for question in settings.questions
        ]
    known = kit.checkpoint.recommended.get("labels") or ["cell"]
    common: dict[str, Any] = {"generation": generation, "tile_size": size, "overlap": 0}
    return [
        Request(task=Task.DETECT, labels=tuple(known), **common),
        Request(task=Task.COUNT, labels=tuple(known), **common),
        Request(task=Task.DESCRIBE, **common),
    ]


def ask(engine: Engine, pictures: Sequence[Picture | None], request: Request) -> list[Answer]:
    """Answers about pictures, or about words alone where a picture is None."""
    subjects = (Subject(() if p is None else (NamedPicture("", p),)) for p in pictures)
    return list(answer_each(engine, subjects, request, batch_size=_BATCH))


def answer_text(
    answer: Answer, request: Request, writer: Writer, checkpoint: Checkpoint, size: tuple[int, int] | None
) -> str | None:
    """The words of a complete answer, to be taught again; None where it is not complete."""
    if not answer.status.complete:
        return None
    if request.task is Task.SCORE:
        return "yes" if answer.scores["yes"] >= 0.5 else "no"
    if request.task is Task.CLASSIFY:
        return answer.text
    if request.task in (Task.DETECT, Task.POINT) and size is not None:
        return writer.answer(request.task, answer.objects, checkpoint.processor.frame(*size))
    if request.task is Task.COUNT:
        return str(answer.value)
    text = answer.raw
    for mark in ("<|im_end|>", "<|endoftext|>"):
        text = text.split(mark)[0]
    return text.strip() or None


def generated_items(
    loads: Sequence[Load], requests: Sequence[Request], kit: ReplayContext, engine: Engine
) -> list[tuple[ReplayItem, Request, Answer]]:
    """Questions asked of the base model about pictures, each picture one question, and its complete answers."""
    rng = np.random.default_rng([kit.seed, 3])
    chosen = rng.integers(len(requests), size=len(loads))
    found: list[tuple[ReplayItem, Request, Answer]] = []
    for number, request in enumerate(requests):
        rows = [loads[i] for i in np.flatnonzero(chosen == number).tolist()]
        pictures = [None if load is None else load() for load, _, _ in rows]
        for (load, size, key), answer in zip(rows, ask(engine, pictures, request), strict=True):
            text = answer_text(answer, request, kit.writer, kit.checkpoint, size)
            if text is not None:
                turn = Exchange(
                    build_prompt(request), text, request.system_prompt, places=request.task in (Task.DETECT, Task.POINT)
                )
                found.append((ReplayItem(turn, load, size, key), request, answer))
    return found


def _generated(
    settings: ReplaySource, kit: ReplayContext, engine: Engine, loads: Sequence[Load], size: int
) -> tuple[ExampleSource, RetentionTest | None]:
    requests = requests_of(settings, kit, size)
    held = min(settings.held_out, len(loads) // 3)
    order = np.random.default_rng([kit.seed, 4]).permutation(len(loads))
    for_skill = [loads[i] for i in order[:held]]
    for_source = [loads[i] for i in order[held : held + settings.examples]]
    items = [item for item, _, _ in generated_items(for_source, requests, kit, engine)]
    skill = None
    if for_skill:
        kept = [
            (load, request, answer)
            for (item, request, answer) in generated_items(for_skill, requests, kit, engine)
            for load in [item.load]
        ]
        skill = AnsweredSkill(settings.name, tuple(kept), ask) if kept else None
    return AnsweredSource(settings.name, items, kit), skill


def _tiles(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    loads = target.pictures(np.random.default_rng([kit.seed, 5]), s.examples + s.held_out)
    return _generated(s, kit, engine, loads, target.size)


def label_pictures(labels: LabelSource, cutter: Cutter) -> Callable[[np.random.Generator, int], list[Load]]:
    """Draws tiles of a labelled dataset for `ReplayTarget`."""

    def draw(rng: np.random.Generator, most: int) -> list[Load]:
        cuts = [cut for entry in labels.slides for cut in cutter.grid(entry)]
        chosen = [cuts[i] for i in rng.permutation(len(cuts))[:most]]
        return [
            (_loader(labels.reader, cut.slide, cut.tile), (cut.tile.width, cut.tile.height), f"{cut.key}/00")
            for cut in chosen
        ]

    return draw


def conversation_pictures(conversations: Sequence[Conversation]) -> Callable[[np.random.Generator, int], list[Load]]:
    """Draws pictures of given conversations for `ReplayTarget`, each once."""

    def draw(rng: np.random.Generator, most: int) -> list[Load]:
        first = {item.pictures[0]: item for item in reversed(conversations) if item.pictures}
        names = sorted(first)
        chosen = [names[i] for i in rng.permutation(len(names))[:most]]
        return [(first[name].load, first[name].sizes[0], f"{name}/asked") for name in chosen]

    return draw


def _loader(reader: TileReader, slide: str, tile: Any) -> Callable[[], Picture]:
    return lambda: reader.read(slide, tile)


def _pictures(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    from PIL import Image

    if s.path is None or not s.path.is_dir():
        raise RecipeError(f"replay source {s.name}: path {s.path} is no folder of pictures")
    files = sorted(file for file in s.path.iterdir() if file.suffix.lower() in _PICTURES)
    if not files:
        raise RecipeError(f"replay source {s.name}: no pictures in {s.path}")
    size = s.tile.size if s.tile is not None else target.size

    def loader(file: Path) -> Callable[[], Picture]:
        def load() -> Picture:
            with Image.open(file) as picture:
                picture.thumbnail((size, size))
                pixels = np.asarray(picture.convert("RGB"))
            check_picture(pixels)
            return pixels

        return load

    loads: list[Load] = []
    for file in files[: s.examples + s.held_out]:
        with Image.open(file) as picture:
            picture.thumbnail((size, size))
            loads.append((loader(file), picture.size, f"{s.name}/{file.name}"))
    return _generated(s, kit, engine, loads, size)


def _text(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    prompts = [str(question["prompt"]) for question in s.questions if question.get("prompt")]
    if not prompts:
        raise RecipeError(f"replay source {s.name}: text needs questions with a prompt each")
    items = []
    for prompt in prompts:
        request = Request(task=Task.ASK, prompt=prompt, generation=Generation(max_new_tokens=kit.longest))
        for item, _, _ in generated_items([(None, None, None)], [request], kit, engine):
            items.append(item)
    return AnsweredSource(s.name, items, kit), None


def _dataset(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    if s.path is None:
        raise RecipeError(f"replay source {s.name}: a dataset needs its path")
    dataset = Dataset.open(s.path)
    dataset.require_no_leak()
    spec = s.tile or TileSpec(size=target.size)
    older = Cutter(dataset, spec, dataset.names)
    question: Mapping[str, Any] = s.questions[0] if s.questions else {"task": "detect", "labels": dataset.names}
    request = Request(
        **{"tile_size": spec.size, "overlap": 0, "generation": Generation(max_new_tokens=kit.longest), **question}
    )
    source = LabelSource(
        older,
        "train",
        request,
        kit.writer,
        kit.tokens,
        kit.checkpoint.processor,
        name=s.name,
        empty_share=0.1,
        around_share=0.0,
        augment=Augmentation(pool=target.pool),
    )
    skill = None
    if s.held_out and dataset.of_split("validation"):
        cuts = validation_cuts(older, "validation", most=s.held_out, seed=kit.seed)
        skill = LabelledSkill(s.name, Exam(tuple(cuts), TileReader(dataset), request))
    return source, skill


def _factory(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    size = s.tile.size if s.tile is not None else target.size
    skill = FieldSkill.of(s.name, size, s.held_out, kit.longest) if s.held_out else None
    return FieldSource(s.name, kit, size, fields=max(s.examples, 64)), skill


def _conversations(
    s: ReplaySource, kit: ReplayContext, engine: Engine, target: ReplayTarget
) -> tuple[ExampleSource, RetentionTest | None]:
    if s.path is None or not s.path.is_file():
        raise RecipeError(f"replay source {s.name}: path {s.path} is no file of conversations")
    rows = read_conversations(s.path, kit.writer, kit.checkpoint.processor)
    return ConversationSource(s.name, rows, kit.checkpoint, kit.tokens), None


_MAKERS: dict[str, SourceMaker] = {
    "tiles": _tiles,
    "pictures": _pictures,
    "text": _text,
    "dataset": _dataset,
    "factory": _factory,
    "conversations": _conversations,
}


def shares_of(settings: Sequence[ReplaySource], total: float) -> dict[str, float]:
    """Share of every source: as stated, the rest of the total evenly among the others.

    Raises
    ------
    RecipeError
        More is stated than there is.
    """
    stated = {source.name: source.share for source in settings if source.share is not None}
    open_ones = [source.name for source in settings if source.share is None]
    rest = total - sum(stated.values())
    if rest < -1e-9:
        raise RecipeError(f"replay sources state shares of {sum(stated.values()):.2f} of {total:.2f} together")
    return stated | {name: max(0.0, rest) / len(open_ones) for name in open_ones}
