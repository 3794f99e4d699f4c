"""Pieces of work as they travel to a worker, and what comes back: words and numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class SlidePart:
    """A range of a slide's tiles: `first` <= index < `stop`."""

    name: str
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Ticket:
    """A piece of work, as it travels to a worker."""

    id: str
    slide: str
    mpp: float | None
    mask: str
    options: dict[str, Any]
    request: str
    """JSON."""
    model: str
    """JSON of `ModelSettings`."""
    quality: str
    exports: tuple[str, ...]
    root: str
    token: str
    part_tiles: int
    """A slide with more open tiles is handed back in parts; 0 never does."""
    frame: str | None = None
    """Of the mask's coordinates, where it was given."""
    overwrite: bool = False
    """Set a run aside that turns out to be another one."""
    sharing: int = 1
    host_gpus: bool = False
    """The workers are numbered processes of one machine and share its GPUs out."""
    command: str | None = None
    allow_code: bool = False
    """The engine may be code that the study names."""
    part: SlidePart | None = None
    merge: bool = False
    """Merge the parts and write the report."""

    @property
    def name(self) -> str:
        """What the scheduler calls it."""
        return self.part.name if self.part is not None else ("merge" if self.merge else "slide")


@dataclass(frozen=True, slots=True)
class SlideOutcome:
    """What came of a ticket."""

    id: str
    ended: Literal["complete", "incomplete", "failed", "stopped", "parts", "part"]
    reason: str = ""
    asked: int = 0
    tiles: int = 0
    done: int = 0
    failed: int = 0
    objects: int = 0
    parts: tuple[SlidePart, ...] = ()
    fatal: bool = False
    """No other slide would fare better: the disk is full, or the model cannot be loaded."""
    engine: bool = False
    """The model or its server was at fault."""
