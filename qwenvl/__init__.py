"""Qwen vision-language models: a request and pictures go in, checked answers come out.

Importing this package is quick: torch and transformers load with the first name that needs them.

Examples
--------
>>> from qwenvl import LocalEngine, Request  # doctest: +SKIP
>>> engine = LocalEngine.load("embedded")  # doctest: +SKIP
>>> answers = engine.answer([tile], Request(task="detect", labels=("nucleus",)))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwenvl.answer import Answer, Status, TileObject
    from qwenvl.calibrating import calibrate, reliability
    from qwenvl.calibration import Calibration
    from qwenvl.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
    from qwenvl.description import CheckpointDescription, MemoryEstimate, describe_checkpoint, estimate_memory
    from qwenvl.engines.base import Engine, ModelInfo
    from qwenvl.engines.local import LocalEngine
    from qwenvl.engines.remote import RemoteEngine
    from qwenvl.errors import (
        CheckpointError,
        EngineError,
        PictureError,
        QwenVLError,
        RequestError,
        ServerError,
        UnknownFamilyError,
    )
    from qwenvl.families import FAMILIES, ModelFamily, family_of, get_family
    from qwenvl.film import Stamps
    from qwenvl.geometry import CoordinateSpace, PictureFrame, smart_resize
    from qwenvl.marks import Mark, draw_marks
    from qwenvl.parse import parse_answer
    from qwenvl.processor import ProcessorSettings, read_processor
    from qwenvl.prompts import build_prompt, conversation, render_chat
    from qwenvl.request import Generation, Request, Task, Where
    from qwenvl.subject import NamedPicture, Subject, Turn

_HOMES = {
    "answer": ("Answer", "Status", "TileObject"),
    "calibrating": ("calibrate", "reliability"),
    "calibration": ("Calibration",),
    "checkpoint": ("Checkpoint", "find_checkpoint", "load_checkpoint"),
    "description": ("CheckpointDescription", "MemoryEstimate", "describe_checkpoint", "estimate_memory"),
    "engines.base": ("Engine", "ModelInfo"),
    "engines.local": ("LocalEngine",),
    "engines.remote": ("RemoteEngine",),
    "errors": (
        "CheckpointError", "EngineError", "PictureError", "QwenVLError", "RequestError", "ServerError",
        "UnknownFamilyError",
    ),
    "families": ("FAMILIES", "ModelFamily", "family_of", "get_family"),
    "film": ("Stamps",),
    "geometry": ("CoordinateSpace", "PictureFrame", "smart_resize"),
    "marks": ("Mark", "draw_marks"),
    "parse": ("parse_answer",),
    "processor": ("ProcessorSettings", "read_processor"),
    "prompts": ("build_prompt", "conversation", "render_chat"),
    "request": ("Generation", "Request", "Task", "Where"),
    "subject": ("NamedPicture", "Subject", "Turn"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FAMILIES", "Answer", "Calibration", "Checkpoint", "CheckpointDescription", "CheckpointError",
    "CoordinateSpace", "Engine", "EngineError", "Generation", "LocalEngine", "Mark", "MemoryEstimate",
    "ModelFamily", "ModelInfo", "NamedPicture", "PictureError", "PictureFrame", "ProcessorSettings",
    "QwenVLError", "RemoteEngine", "Request", "RequestError", "ServerError", "Stamps", "Status", "Subject", "Task",
    "TileObject", "Turn", "UnknownFamilyError", "Where", "build_prompt", "calibrate", "conversation",
    "describe_checkpoint", "draw_marks", "estimate_memory", "family_of", "find_checkpoint", "get_family",
    "load_checkpoint", "parse_answer", "read_processor", "reliability", "render_chat", "smart_resize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qwenvl' has no attribute {name!r}")
    module = import_module(f"qwenvl.{_HOME_OF[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
