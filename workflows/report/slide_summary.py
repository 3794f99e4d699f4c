"""The summary of a slide in words: what the model said of tiles, gathered by the model, every sentence with its tiles.

Tiles' texts are put into prompts as numbered lines, as many as fit (map); the summaries of the parts are summarised
again until one is left (reduce). A model must write the tiles a sentence rests on in square brackets. What it writes
is not trusted: numbers it was not given are dropped and noted, a sentence without any number left goes, and where
nothing usable comes back, the tiles' own words are put together without the model, which the result says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from qwenvl.engines.base import Engine
from qwenvl.engines.questions import answer_each
from qwenvl.request import Generation, Request, Task
from qwenvl.subject import Subject
from workflows._words import plural
from workflows.errors import NarrativeError
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, utc_now
from workflows.store.run_store import RunStore

NARRATIVE = "summary.json"
"""File in the run folder."""
WORD_TASKS = (Task.DESCRIBE, Task.ASK)
_LONGEST_PROMPT = 18_000
_CHARACTERS_PER_TOKEN = 3.0
_LEVELS = 8
_LONGEST_TEXT = 600
_MOST_SENTENCES = 8
_LISTED_TILES = 12
_NOTED = 20

_RULES = (
    "End every sentence with the numbers of the tiles it rests on in square brackets, for example [{example}]. "
    "Use only numbers that are given. Write only the sentences.\n\n{lines}"
)
_MAP = (
    "These are descriptions of tiles of one microscope slide. Every line begins with the tile's number in square "
    "brackets. Summarise what they say about the slide in at most {most} sentences. " + _RULES
)
_REDUCE = (
    "These are statements about parts of one microscope slide. Every line begins with the numbers of the tiles it "
    "rests on in square brackets. Summarise them in at most {most} sentences about the whole slide. " + _RULES
)
_CITED = re.compile(r"([^\[\]]+?)\s*\[([^\[\]]*)\]\s*[.!?]?")
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to)\s*(\d+)|(\d+)")


class Sentence(Facts):
    """One sentence, and the tiles it rests on."""

    text: str
    tiles: tuple[int, ...] = Field(description="Indices of tiles of the run; at least one.")


class Narrative(Facts):
    """A slide in words."""

    schema_version: Literal["1.0"] = "1.0"
    method: Literal["model", "extractive"] = Field(
        description="'model': written by the model; 'extractive': the tiles' own words, put together without it."
    )
    reason: str | None = Field(description="Why the model's summary was not used; null where it was.")
    sentences: tuple[Sentence, ...]
    notes: tuple[str, ...] = Field(description="What was dropped from the model's words, and why.")
    texts: int = Field(description="Tiles with a text when the summary was made.")
    calls: int = Field(description="Prompts the model was asked.")
    model: str
    model_fingerprint: str
    run_id: str
    created: str = Field(description="UTC time, ISO 8601.")

    def write(self, folder: Path) -> Path:
        """Write `summary.json` into a run folder: under a temporary name first, then renamed."""
        path = folder / NARRATIVE

        def write_to(partial: Path) -> None:
            partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

        replace_whole(path, write_to)
        return path


def read_narrative(folder: Path | str) -> Narrative | None:
    """The summary in words of a run, None where none was made. Raises NarrativeError where it cannot be read."""
    path = Path(folder) / NARRATIVE
    if not path.is_file():
        return None
    try:
        return Narrative.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise NarrativeError(
            f"{path} is not a summary of schema version 1.0. Make it again with: qwenvl summarise RUN"
        ) from error


def summarise_in_words(
    run: Path | str, engine: Engine, *, prompt_tokens: int = 3000, new_tokens: int = 512
) -> Narrative:
    """Summarise what the model said of the tiles of a describe or ask run; writes `summary.json` into its folder.

    Parameters
    ----------
    run : path
        Run folder.
    engine : Engine
        The model that summarises.
    prompt_tokens : int
        Longest prompt, estimated at three characters per token: what the model's context holds, less `new_tokens`.
    new_tokens : int
        Longest answer.

    Raises
    ------
    NarrativeError
        The run's task gives no texts, or there are none yet.
    RunNotFoundError, StoreError, EngineError, RequestError
    """
    with RunStore.open(run) as store:
        task, run_id = store.manifest.request.task, str(store.manifest.run_id)
        if task not in WORD_TASKS:
            raise NarrativeError(f"{run}: task {task} gives no texts to summarise; describe and ask do.")
        texts = {
            found.tile: " ".join(found.answer.text.split())
            for found in store.iter_answers()
            if found.answer.status.complete and found.answer.text and found.answer.text.strip()
        }
    if not texts:
        raise NarrativeError(f"{run} has no texts yet. Let the run go on first.")
    room = min(_LONGEST_PROMPT, int(prompt_tokens * _CHARACTERS_PER_TOKEN)) - len(_REDUCE) - 40
    if room < 2 * _LONGEST_TEXT:
        raise NarrativeError(f"prompt_tokens: {prompt_tokens} is too short for a summary; use at least 1000.")
    gathering = _Gathering(engine, room, new_tokens)
    sentences = gathering.gather(texts)
    failed = gathering.reason if not sentences else None
    narrative = Narrative(
        method="extractive" if failed else "model",
        reason=failed,
        sentences=tuple(extract(texts)) if failed else tuple(sentences),
        notes=(*gathering.notes[:_NOTED], *gathering.more()),
        texts=len(texts),
        calls=gathering.calls,
        model=engine.info.model,
        model_fingerprint=engine.info.fingerprint,
        run_id=run_id,
        created=utc_now(),
    )
    narrative.write(Path(run))
    return narrative


@dataclass
class _Gathering:
    """One summary in the making."""

    engine: Engine
    room: int
    new_tokens: int
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    reason: str = ""

    def gather(self, texts: Mapping[int, str]) -> list[Sentence]:
        """Map, then reduce; empty where a part came back unusable, and `reason` says why."""
        lines = [Sentence(text=_plain(text), tiles=(tile,)) for tile, text in texts.items()]
        template = _MAP
        for _ in range(_LEVELS):
            parts = list(pack(lines, self.room))
            said = [self._ask(template, part) for part in parts]
            if not all(said):
                return []
            found = [sentence for part in said for sentence in part]
            if len(parts) == 1:
                return found
            if sum(len(_line(of)) for of in found) >= sum(len(_line(of)) for of in lines):
                self.reason = "its summaries of the parts were no shorter than the parts"
                return []
            lines, template = found, _REDUCE
        self.reason = f"{_LEVELS} rounds did not bring it to one summary"
        return []

    def _ask(self, template: str, part: Sequence[Sentence]) -> list[Sentence]:
        known = sorted({tile for of in part for tile in of.tiles})
        prompt = template.format(
            most=_MOST_SENTENCES, example=", ".join(map(str, known[:2])), lines="\n".join(map(_line, part))
        )
        request = Request(task=Task.ASK, prompt=prompt, generation=Generation(max_new_tokens=self.new_tokens))
        answer = next(answer_each(self.engine, [Subject()], request))
        self.calls += 1
        words = answer.text or ""
        if answer.status.value in ("failed", "refused"):
            self.reason = f"it {answer.status.value}: {answer.error or words[:120] or 'without a reason'}"
            return []
        found, notes = parse_cited(words, known)
        self.notes += notes
        if answer.status.value == "truncated":
            self.notes.append("A summary was cut off; its whole sentences are kept.")
        if not found:
            self.reason = "its answer names no tile it was given" if words.strip() else "its answer is empty"
        return found[:_MOST_SENTENCES]

    def more(self) -> tuple[str, ...]:
        """How many notes are not listed."""
        left = len(self.notes) - _NOTED
        return (f"{left} more of the kind.",) if left > 0 else ()


def parse_cited(words: str, known: Sequence[int]) -> tuple[list[Sentence], list[str]]:
    """Sentences with the tiles they rest on, out of a model's words; and what had to be dropped.

    Parameters
    ----------
    words : str
        Sentences, each followed by numbers in square brackets; anything else is allowed and dropped.
    known : sequence of int
        Tiles that may be named.
    """
    allowed, sentences, notes = set(known), [], []
    end = 0
    for match in _CITED.finditer(words):
        end = match.end()
        text = match[1].replace("**", "").strip().lstrip("-*•.;, \n").strip()
        tiles, unknown = _tiles(match[2], allowed)
        if unknown:
            notes.append(f"Numbers of tiles it was not given were dropped: {', '.join(unknown[:5])}.")
        if not text:
            continue
        if tiles:
            sentences.append(Sentence(text=text if text[-1] in ".!?" else f"{text}.", tiles=tuple(tiles)))
        else:
            notes.append(f"A sentence without a known tile was dropped: {_short(text)}")
    rest = words[end:].strip()
    if sentences and rest:
        notes.append(f"A sentence without a known tile was dropped: {_short(rest)}")
    return sentences, notes


def extract(texts: Mapping[int, str]) -> Iterator[Sentence]:
    """The most frequent texts with how many tiles have them: a summary without a model."""
    groups: dict[str, list[int]] = defaultdict(list)
    for tile, text in texts.items():
        groups[text.casefold().rstrip(".! ")].append(tile)
    order = sorted(groups.values(), key=lambda tiles: (-len(tiles), tiles[0]))
    for tiles in order[:_MOST_SENTENCES]:
        text = texts[tiles[0]][:_LONGEST_TEXT].rstrip(". ")
        yield Sentence(text=f"{text} ({plural(len(tiles), 'tile')}).", tiles=tuple(tiles[:_LISTED_TILES]))
    if rest := order[_MOST_SENTENCES:]:
        others = [tile for tiles in rest for tile in tiles]
        text = f"{plural(len(rest), 'other text')}, in {plural(len(others), 'tile')}."
        yield Sentence(text=text, tiles=tuple(others[:_LISTED_TILES]))


def pack(lines: Sequence[Sentence], room: int) -> Iterator[list[Sentence]]:
    """Lines in their order, as many together as fit into `room` characters."""
    part: list[Sentence] = []
    taken = 0
    for line in lines:
        length = len(_line(line)) + 1
        if part and taken + length > room:
            yield part
            part, taken = [], 0
        part.append(line)
        taken += length
    if part:
        yield part


def _tiles(words: str, allowed: set[int]) -> tuple[list[int], list[str]]:
    tiles: list[int] = []
    unknown: list[str] = []
    for match in _RANGE.finditer(words):
        if match[3] is not None:
            named = [int(match[3])] if len(match[3]) < 12 else []
        else:
            first, last = int(match[1][:12]), int(match[2][:12])
            # Of a range, the tiles that were given count; one that holds none is unknown.
            named = sorted(tile for tile in allowed if first <= tile <= last)
        good = [tile for tile in named if tile in allowed]
        tiles += [tile for tile in good if tile not in tiles]
        if not good:
            unknown.append(match[0][:24])
    return tiles, unknown


def _line(sentence: Sentence) -> str:
    return f"[{', '.join(map(str, sentence.tiles[:_LISTED_TILES]))}] {sentence.text}"


def _plain(text: str) -> str:
    """A tile's words as one line that cannot name other tiles."""
    return _short(text.translate({ord("["): "(", ord("]"): ")"}), _LONGEST_TEXT)


def _short(text: str, most: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
