"""Given conversations as what is learned, replayed and measured: questions and answers somebody wrote down."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.conversations.formats import Conversation, Conversations, read_conversations
from finetune.errors import DatasetError, LeakError, RecipeError
from finetune.evaluation.metrics import Score
from finetune.evaluation.text_metrics import Told, parsed, score_texts, yes_or_no
from finetune.examples.conversation import Exchange, Writer
from finetune.examples.examples import ExamplePlan
from finetune.examples.tokens import TurnTokens, words_of
from qwenvl.answer import Answer
from qwenvl.engines.base import Engine
from qwenvl.engines.questions import answer_each
from qwenvl.images.processor import ProcessorSettings
from qwenvl.request import Generation, Request, Task
from qwenvl.subject import NamedPicture, Subject

if TYPE_CHECKING:
    from qwenvl.checkpoints.loading import Checkpoint

_YES_NO = " Answer yes or no."
_ENDS = ("<|im_end|>", "<|endoftext|>")
_PLACES = ("bbox_2d", "point_2d")


class ConversationSource:
    """Conversations that were given, of any number of turns, drawn evenly.

    Parameters
    ----------
    conversations : sequence of Conversation
    checkpoint : Checkpoint
    tokens : TurnTokens
    """

    def __init__(
        self, name: str, conversations: Sequence[Conversation], checkpoint: Checkpoint, tokens: TurnTokens
    ) -> None:
        if not conversations:
            raise RecipeError(f"{name}: the file holds no conversation")
        self.name, self._all = name, list(conversations)
        self._checkpoint, self._tokens = checkpoint, tokens

    def plan(self, rng: np.random.Generator) -> ExamplePlan:
        """Draw a conversation."""
        chosen = self._all[int(rng.integers(len(self._all)))]
        processor = self._checkpoint.processor
        visual = [processor.image_tokens(processor.frame(*size)) for size in chosen.sizes]
        tokens = self._tokens.conversation(chosen.messages, visual)
        load = chosen.load if chosen.pictures else None
        key = f"{self.name}/{chosen.pictures[0]}" if chosen.pictures else None
        return ExamplePlan(self.name, tokens, Exchange("", "", places=_only_places(chosen)), load, key)


@dataclass(frozen=True)
class GivenQuestion:
    """The first question of a conversation, and its known answer."""

    conversation: Conversation
    question: str
    answer: str
    system: str | None = None

    @classmethod
    def of(cls, conversation: Conversation) -> GivenQuestion | None:
        """None where a conversation does not begin with a question and its answer."""
        messages = list(conversation.messages)
        system = words_of(messages.pop(0)) if messages and messages[0]["role"] == "system" else None
        if [message["role"] for message in messages[:2]] != ["user", "assistant"]:
            return None
        return cls(conversation, words_of(messages[0]).strip(), words_of(messages[1]), system)

    @property
    def group(self) -> str:
        """The picture; the question where there is none."""
        return str(self.conversation.pictures[0]) if self.conversation.pictures else self.question

    def subject(self) -> Subject:
        """What the engine is shown."""
        if not self.conversation.pictures:
            return Subject(())
        return Subject((NamedPicture("", self.conversation.load()),))


@dataclass(frozen=True)
class ConversationExam:
    """Questions with known answers, asked through the engine as users would with task ask.

    Questions with the answer yes or no that end in 'Answer yes or no.', as those of task score do, are judged by
    the probability of yes too.
    """

    asked: tuple[GivenQuestion, ...]
    generation: Generation

    @classmethod
    def of(
        cls, conversations: Sequence[Conversation], generation: Generation, *, most: int | None = None, seed: int = 0
    ) -> ConversationExam:
        """An exam of a file's conversations; of more than `most`, some drawn once.

        Raises
        ------
        DatasetError
            None begins with a question and its answer.
        """
        asked = [found for item in conversations if (found := GivenQuestion.of(item)) is not None and found.question]
        if not asked:
            raise DatasetError("held_out: no conversation begins with a question and its answer")
        if most is not None and len(asked) > most:
            chosen = np.random.default_rng(seed).permutation(len(asked))[:most]
            asked = [asked[i] for i in sorted(chosen.tolist())]
        return cls(tuple(asked), generation)

    def score(self, engine: Engine) -> Score:
        """Ask every question and score the answers."""
        answers = self._answers(engine, list(self.asked), Task.ASK)
        told = [_told(item, answers[id(item)]) for item in self.asked]
        judged = [item for item in self.asked if yes_or_no(item.answer) and item.question.endswith(_YES_NO)]
        if judged:
            yes = self._answers(engine, judged, Task.SCORE)
            told = [
                Told(t.group, t.truth, t.answer, t.cut, yes[id(item)].scores["yes"])
                if id(item) in yes and yes[id(item)].scores
                else t
                for item, t in zip(self.asked, told, strict=True)
            ]
        return score_texts(told)

    def _answers(self, engine: Engine, items: list[GivenQuestion], task: Task) -> dict[int, Answer]:
        """Answers by the identity of what was asked; questions in the same words go together."""
        groups: dict[tuple[str, str | None], list[GivenQuestion]] = {}
        for item in items:
            groups.setdefault((item.question, item.system), []).append(item)
        found: dict[int, Answer] = {}
        for (question, system), rows in groups.items():
            prompt = question.removesuffix(_YES_NO) if task is Task.SCORE else question
            request = Request(task=task, prompt=prompt, system_prompt=system, generation=self.generation)
            answers = answer_each(engine, (item.subject() for item in rows), request)
            found |= {id(item): answer for item, answer in zip(rows, answers, strict=True)}
        return found


def _told(item: GivenQuestion, answer: Answer) -> Told:
    text = answer.text if answer.text is not None else answer.raw
    for mark in _ENDS:
        text = text.split(mark)[0]
    return Told(item.group, item.answer, text.strip(), answer.finish_reason in ("length", "loop"))


def request_for(
    conversations: Sequence[Conversation], generation: Generation, *, size: int | None = None, overlap: int = 64
) -> Request:
    """The request an adapter of conversations carries: its most frequent question, at its pictures' size.

    Parameters
    ----------
    size : int, optional
        Side of a tile in px; None takes the middle of the pictures' longer sides.
    """
    asked = [found for item in conversations if (found := GivenQuestion.of(item)) is not None and found.question]
    if not asked:
        raise RecipeError("conversations: none begins with a question and its answer")
    (question, system), _ = Counter((item.question, item.system) for item in asked).most_common(1)[0]
    sides = [max(item.sizes[0]) for item in conversations if item.sizes]
    if size is None and sides:
        size = int(np.median(sides))
    size = min(8192, max(32, size or Request.model_fields["tile_size"].default))
    return Request(
        task=Task.ASK,
        prompt=question[:20000],
        system_prompt=system,
        tile_size=size,
        overlap=min(size // 2, overlap),
        generation=generation,
    )


def read_split(
    training: Path, held_out: Path | None, writer: Writer | None = None, processor: ProcessorSettings | None = None
) -> tuple[Conversations, Conversations]:
    """The conversations to learn from and those kept back; `writer` and `processor` as in `read_conversations`.

    Raises
    ------
    DatasetError
        A file is missing or empty.
    LabelFileError
        No row of a file can be used; those that cannot are in `Conversations.refused`.
    LeakError
        A picture, or a question without one, is in both.
    """
    found: list[Conversations] = []
    for name, path in (("conversations", training), ("held_out", held_out)):
        if path is None:
            found.append(Conversations())
            continue
        if not path.is_file():
            raise DatasetError(f"{name}: {path} is no file of conversations")
        found.append(read_conversations(path, writer, processor))
        if not found[-1]:
            raise DatasetError(f"{name}: {path} holds no conversation")
    known = _marks(found[1])
    shared = set(_marks(found[0])) & set(known)
    if shared:
        raise LeakError(
            f"{len(shared)} pictures or questions of {training.name} are in the held-out file too, such as "
            f"{known[min(shared)]}; what was learned cannot be measured on them"
        )
    return found[0], found[1]


def manifest(
    training: Path, conversations: Conversations, held_out: Path | None, kept: Conversations
) -> dict[str, Any]:
    """What an adapter says of the conversations it learned from."""
    files = {"train": (training, conversations)}
    if held_out is not None:
        files["validation"] = (held_out, kept)
    return {
        "name": training.stem,
        "conversations": {
            split: {
                "file": path.name,
                "hash": f"sha256:{_digest(path.read_bytes())}",
                "rows": len(rows),
                "refused": len(rows.refused),
            }
            for split, (path, rows) in files.items()
        },
        "pictures": len({item.pictures for item in conversations if item.pictures}),
    }


def _marks(conversations: Sequence[Conversation]) -> dict[str, str]:
    """What would give an answer away, by hash: the file of a picture; of words alone the first question."""
    marks: dict[str, str] = {}
    files = {picture for item in conversations for picture in item.pictures}
    for picture in files:
        marks[_digest(picture.read_bytes())] = str(picture)
    for item in conversations:
        asked = None if item.pictures else GivenQuestion.of(item)
        if asked is not None:
            marks[_digest(asked.question.encode())] = repr(asked.question[:60])
    return marks


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _only_places(conversation: Conversation) -> bool:
    """Whether every answer is a list of boxes or points with labels: then its numbers are coordinates."""
    answers = [words_of(m) for m in conversation.messages if m["role"] == "assistant"]
    return all(
        isinstance(rows := parsed(answer), list)
        and bool(rows)
        and all(isinstance(row, dict) and set(row) <= {*_PLACES, "label"} and len(row) > 1 for row in rows)
        for answer in answers
    )
