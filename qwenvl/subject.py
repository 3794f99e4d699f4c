"""The subject of one question: one picture, several named ones, or none.

A bare array stands for a subject of one picture without a name; engines take both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenvl.answer import Answer
from qwenvl.errors import PictureError, RequestError
from qwenvl.images.images import check_picture
from qwenvl.images.marks import Mark, draw_marks
from qwenvl.images.video import FrameTimestamps
from qwenvl.prompts import Message, as_text, build_prompt, conversation
from qwenvl.request import Request, Task

Picture = NDArray[np.uint8]
"""RGB, (height, width, 3)."""

PLACING = (Task.DETECT, Task.POINT)
"""Tasks whose answers are places in a picture."""


@dataclass(frozen=True, slots=True, eq=False)
class NamedPicture:
    """A picture and the words that announce it to the model.

    Attributes
    ----------
    name : str
        Written before the picture, as 'context: '; '' writes nothing.
    pixels : uint8 array (height, width, 3)
        RGB.
    marks : tuple of Mark
        Drawn on a copy of the pixels before the model sees them, in px of this picture.
    """

    name: str
    pixels: Picture
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that was asked about a subject before, and the words the model answered with."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What one question is about.

    Attributes
    ----------
    pictures : tuple of NamedPicture
        In the order the model sees them. None at all asks about the request's words alone.
    target : str or None
        Name of the picture that the question is about: boxes and points come back in px of it. Needed where there
        are several, never guessed.
    stamps : FrameTimestamps, optional
        When or how deep each picture was taken: the pictures are a film, which is asked about as a whole. They have
        one size, no names and no target.
    turns : tuple of Turn
        What was asked about these pictures before, oldest first: the model is asked on in the same conversation.

    Raises
    ------
    RequestError
        A name is missing or given twice among several pictures, or `target` names none of them; or pictures and
        stamps do not fit each other.

    Examples
    --------
    >>> context, detail = np.zeros((224, 224, 3), np.uint8), np.zeros((448, 448, 3), np.uint8)
    >>> pair = Subject((NamedPicture("context", context), NamedPicture("detail", detail)), target="detail")
    >>> pair.target_index
    1
    """

    pictures: tuple[NamedPicture, ...] = ()
    target: str | None = None
    stamps: FrameTimestamps | None = None
    turns: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        if self.stamps is not None:
            self._check_film(self.stamps)
            return
        names = [picture.name for picture in self.pictures]
        for name in names:
            if name != name.strip() or "<|" in name or "\n" in name or len(name) > 80:
                raise RequestError(
                    f"picture name {name!r}: use up to 80 characters in one line, without '<|' and outer spaces"
                )
        if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
            raise RequestError(f"pictures {names}: give each of several pictures a name of its own")
        if self.target is None and len(names) > 1:
            raise RequestError(f"pictures {names}: say which one the boxes belong to, for example target={names[-1]!r}")
        if self.target is not None and self.target not in names:
            raise RequestError(f"target {self.target!r} names none of the pictures {names}")

    def _check_film(self, stamps: FrameTimestamps) -> None:
        if len(stamps.values) != len(self.pictures):
            raise RequestError(f"{len(self.pictures)} pictures and {len(stamps.values)} stamps: give one each")
        if self.target is not None or any(picture.name for picture in self.pictures):
            raise RequestError("the pictures of a film have stamps in place of names, and none is the target")
        shapes = {np.shape(picture.pixels) for picture in self.pictures}
        if len(shapes) > 1:
            raise RequestError(f"the pictures of a film have one size, not {sorted(shapes)[:3]}")

    @classmethod
    def film(cls, pictures: Sequence[Picture], stamps: FrameTimestamps) -> Subject:
        """A film of pictures of one size."""
        return cls(tuple(NamedPicture("", picture) for picture in pictures), stamps=stamps)

    @property
    def target_index(self) -> int | None:
        """Number of the picture that the question is about; None where there is no picture, or a film of them."""
        if self.stamps is not None:
            return None
        if self.target is not None:
            return [picture.name for picture in self.pictures].index(self.target)
        return 0 if self.pictures else None

    @property
    def form(self) -> tuple[tuple[str, ...], str | None, FrameTimestamps | None, tuple[Turn, ...]]:
        """Names, target, stamps and turns: subjects of one form are asked in the same words."""
        return tuple(picture.name for picture in self.pictures), self.target, self.stamps, self.turns

    def noted(self, answer: Answer) -> Answer:
        """An answer about this subject with a note of how many marks were drawn for it."""
        count = sum(len(picture.marks) for picture in self.pictures)
        return replace(answer, notes=(*answer.notes, f"marked:{count}")) if count else answer

    def unfit(self, request: Request) -> str | None:
        """Why a request cannot be asked about this subject; None where it can."""
        if not self.pictures and request.task not in (Task.ASK, Task.EXTRACT, Task.CLASSIFY, Task.SCORE):
            return f"task {request.task} needs a picture"
        if self.stamps is not None and request.task in PLACING:
            return f"task {request.task} gives places in one picture; ask it about every picture of the film"
        if self.stamps is not None and request.marks:
            return "marks belong to one picture, and a film has no target; mark its pictures instead"
        return None


Item = Picture | Subject
"""What engines take: a picture, or a subject."""


def as_subject(item: Any, number: int, marks: Sequence[Mark] = ()) -> Subject:
    """The subject that an item stands for, with every picture checked and its marks drawn.

    Parameters
    ----------
    item : Item
    number : int
        Of the item in its call, for messages.
    marks : sequence of Mark
        Of the request; they belong to the target.

    Raises
    ------
    PictureError
        A picture has the wrong dtype or shape, or a mark lies outside it.
    """
    subject = item if isinstance(item, Subject) else Subject((NamedPicture("", item),))
    drawn = []
    for index, picture in enumerate(subject.pictures):
        wanted = (*picture.marks, *marks) if index == subject.target_index else picture.marks
        try:
            check_picture(picture.pixels)
            pixels = draw_marks(picture.pixels, wanted) if wanted else picture.pixels
        except PictureError as error:
            raise PictureError(f"{label(number, picture.name)}: {error}") from None
        drawn.append(replace(picture, pixels=pixels, marks=wanted))
    return replace(subject, pictures=tuple(drawn))


def ask_about(request: Request, subject: Subject | None = None, *, one_block: bool = False) -> list[Message]:
    """The conversation that asks a request about a subject; None is one picture without a name.

    The pictures of a film have their stamps before them, or are announced as one block where the family is told
    the time in another way. Turns come first, the pictures with the oldest question.
    """
    messages = _question(request, subject, one_block)
    if subject is None or not subject.turns:
        return messages
    *system, asked = messages
    *pictures, words = asked["content"]
    questions = [[{"type": "text", "text": as_text(turn.question)}] for turn in subject.turns] + [[words]]
    questions[0] = [*pictures, *questions[0]]
    talk: list[Message] = [{"role": "user", "content": questions[0]}]
    for turn, question in zip(subject.turns, questions[1:], strict=True):
        talk.append({"role": "assistant", "content": [{"type": "text", "text": as_text(turn.answer)}]})
        talk.append({"role": "user", "content": question})
    return [*system, *talk]


def _question(request: Request, subject: Subject | None, one_block: bool) -> list[Message]:
    """The conversation without what was said before."""
    if subject is not None and subject.stamps is not None:
        stamps = ("",) if one_block else subject.stamps.texts
        words, system = build_prompt(request), request.system_prompt
        return conversation(words, system_prompt=system, pictures=len(stamps), anchors=stamps)
    names = ("",) if subject is None else subject.form[0]
    target = subject.target if subject is not None and len(names) > 1 else None
    return conversation(
        build_prompt(request, target=target),
        system_prompt=request.system_prompt,
        pictures=len(names),
        anchors=[anchor(name) for name in names],
    )


def anchor(name: str) -> str:
    """The text before a picture of this name, in the form of the families' own 'Picture 1: '."""
    return f"{name}: " if name else ""


def label(number: int, name: str) -> str:
    """What messages call a picture."""
    return f"picture {number} ({name})" if name else f"picture {number}"
