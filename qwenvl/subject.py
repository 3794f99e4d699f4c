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
from qwenvl.marks import Mark, draw_marks
from qwenvl.pictures import check_picture
from qwenvl.prompts import Message, build_prompt, conversation
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

    Raises
    ------
    RequestError
        A name is missing or given twice among several pictures, or `target` names none of them.

    Examples
    --------
    >>> context, detail = np.zeros((224, 224, 3), np.uint8), np.zeros((448, 448, 3), np.uint8)
    >>> pair = Subject((NamedPicture("context", context), NamedPicture("detail", detail)), target="detail")
    >>> pair.target_index
    1
    """

    pictures: tuple[NamedPicture, ...] = ()
    target: str | None = None

    def __post_init__(self) -> None:
        names = [picture.name for picture in self.pictures]
        for name in names:
            if name != name.strip() or "<|" in name or "\n" in name or len(name) > 80:
                raise RequestError(
                    f"picture name {name!r}: use up to 80 characters in one line, without '<|' and outer spaces"
                )
        if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
            raise RequestError(f"pictures {names}: give each of several pictures a name of its own")
        if self.target is None and len(names) > 1:
            raise RequestError(
                f"pictures {names}: say which one the boxes belong to, for example target={names[-1]!r}"
            )
        if self.target is not None and self.target not in names:
            raise RequestError(f"target {self.target!r} names none of the pictures {names}")

    @property
    def target_index(self) -> int | None:
        """Number of the picture that the question is about; None where there is no picture."""
        if self.target is not None:
            return [picture.name for picture in self.pictures].index(self.target)
        return 0 if self.pictures else None

    @property
    def form(self) -> tuple[tuple[str, ...], str | None]:
        """Names and target: subjects of one form are asked in the same words."""
        return tuple(picture.name for picture in self.pictures), self.target

    def noted(self, answer: Answer) -> Answer:
        """An answer about this subject with a note of how many marks were drawn for it."""
        count = sum(len(picture.marks) for picture in self.pictures)
        return replace(answer, notes=(*answer.notes, f"marked:{count}")) if count else answer

    def unfit(self, request: Request) -> str | None:
        """Why a request cannot be asked about this subject; None where it can."""
        if not self.pictures and request.task not in (Task.ASK, Task.EXTRACT, Task.CLASSIFY, Task.SCORE):
            return f"task {request.task} needs a picture"
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


def ask_about(request: Request, subject: Subject | None = None) -> list[Message]:
    """The conversation that asks a request about a subject; None is one picture without a name."""
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
