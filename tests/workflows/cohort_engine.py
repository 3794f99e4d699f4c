"""Engines that studies of the tests name; what they are to do is told by the environment, which workers inherit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from qwenvl.answer import Answer
from qwenvl.engines.fake import FakeEngine
from qwenvl.errors import EngineError
from qwenvl.request import Request


class Told(FakeEngine):
    """Counts its calls in a file, and fails or dies where it is told."""

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        if log := os.environ.get("COHORT_LOG"):
            with open(log, "a", encoding="ascii") as stream:
                stream.write("x" * len(pictures))
        told = os.environ.get("COHORT_TOLD", "")
        if told == "die" and pictures[0].mean() < float(os.environ["COHORT_DARK"]):
            os._exit(9)
        if told == "gone":
            raise EngineError("The server is gone: nobody answers.")
        if told == "full":
            raise OSError(28, "No space left on device")
        return super().answer(pictures, request)


def make() -> Told:
    """A stand-in that answers at once, eight pictures at a time."""
    return Told(6, seconds=float(os.environ.get("COHORT_SECONDS", "0")), batch=8)
