"""Errors of the model side. Every message says what happened, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwenvl.answer import Answer


class QwenVLError(Exception):
    """Base of every error raised by `qwenvl`."""


class UnknownFamilyError(QwenVLError):
    """A checkpoint's `model_type` belongs to no family this package knows."""


class CheckpointError(QwenVLError):
    """A checkpoint cannot be found, is incomplete, or may not be loaded (for example pickled weights)."""


class RequestError(QwenVLError, ValueError):
    """A request contradicts itself or asks for what the model cannot do."""


class PictureError(QwenVLError, ValueError):
    """A picture handed to the model has the wrong dtype, shape or size."""


class EngineError(QwenVLError):
    """The engine could not answer, and repeating the call as it is would not help."""


class ServerError(EngineError):
    """A server stopped answering in the middle of a call. What had arrived is kept; the rest may be asked later.

    Attributes
    ----------
    code : str
        'away', 'busy', 'quota', 'key', 'model', 'fails' or 'refused'.
    answers : sequence of sequences of Answer or None
        One list per request, with one entry per item, in order; None where no answer arrived.
    """

    def __init__(self, message: str, *, code: str, answers: Sequence[Sequence[Answer | None]] = ()) -> None:
        super().__init__(message)
        self.code, self.answers = code, answers


def out_of_memory(error: BaseException) -> bool:
    """True for what Python, PyTorch and CUDA raise when memory runs out; needs no torch."""
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "out of memory" in text or "can't allocate memory" in text
