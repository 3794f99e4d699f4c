"""The report of a time-lapse or z-stack: which frames were shown, what was said, what was followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue

from qwenvl.request import Request
from workflows.errors import RunNotFoundError
from workflows.store.folder import replace_whole
from workflows.store.provenance import Facts, ModelFacts, SlideFacts

NAME = "timelapse.json"
TRACKS = "tracks.csv"
TIMELINE = "timeline.png"


class StackFacts(Facts):
    """The stack as it was read."""

    slide: SlideFacts = Field(description="The file, and the plane that frames are counted along.")
    axis: Literal["t", "z"]
    stored: Literal["t", "z"] = Field(description="The file's own name of the axis.")
    other: int = Field(description="Index along the axis that stays as it is.")
    unit: Literal["seconds", "um"]
    places: tuple[float, ...] = Field(description="Of every frame: s after the first, or um.")
    source: Literal["file", "user"] = Field(description="Who says when or how deep the frames were taken.")


class SamplingFacts(Facts):
    """Which frames were shown, and why these."""

    frames: tuple[int, ...] = Field(description="Frame numbers, from 0.")
    how: Literal["all", "changes", "even"] = Field(
        description="'changes': dense where neighbouring frames differ most."
    )
    budget: int | None = Field(description="Most prompt tokens for frames, where there was a limit.")
    tokens_per_frame: int | None = None
    size: tuple[int, int] | None = Field(None, description="Width and height of a frame's picture in px.")
    changes: tuple[float, ...] = Field(
        (), description="Difference of each frame to the one before, in gray values of 0 to 255."
    )


class FrameFacts(Facts):
    """What was said about one frame."""

    frame: int
    place: float
    status: str = Field(description="The worst of its tiles; 'pending' where not all were asked.")
    objects: int | None = None
    score: float | None = Field(None, description="Highest probability of yes among its tiles; null when unknown.")


class RangeFacts(Facts):
    """From one frame to another, both included."""

    first: int
    last: int
    start: float
    end: float


class TrackFacts(Facts):
    """How objects were linked."""

    tracks: int
    objects: int
    reach: float = Field(description="Px that a centre may move between neighbouring frames.")
    gap: int
    divisions: bool
    shortest: int
    parents: dict[int, int] = Field(description="Mother of every track that begins by division.")
    longest: int = Field(description="Objects of the longest track.")


class FilmAnswer(Facts):
    """What a model said about the whole film."""

    status: str
    text: str | None
    value: JsonValue
    raw: str
    notes: tuple[str, ...]
    prompt_tokens: int
    new_tokens: int
    error: str | None


class TimelapseReport(Facts):
    """Everything that one command found out about a stack."""

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["ask", "when", "track"]
    by: Literal["film", "frames"] = Field(description="Asked about all frames at once, or one by one.")
    stack: StackFacts
    sampling: SamplingFacts
    request: Request
    request_hash: str
    stamps: tuple[str, ...] = Field((), description="The stamps of the frames, as they can be written.")
    model: ModelFacts
    frames: tuple[FrameFacts, ...] = ()
    answer: FilmAnswer | None = None
    ranges: tuple[RangeFacts, ...] = ()
    threshold: float | None = None
    tracks: TrackFacts | None = None
    counts: dict[str, int] = Field(description="Answers by status; 'pending' are not asked yet.")
    complete: bool = Field(description="Every frame was asked, and none failed.")
    warnings: tuple[str, ...] = ()
    versions: dict[str, str]
    created: str
    command: str | None = None

    def write(self, folder: Path) -> Path:
        """Write `timelapse.json` into a folder, whole or not at all."""
        text = self.model_dump_json(indent=2) + "\n"
        path = folder / NAME

        def fill(partial: Path) -> None:
            partial.write_text(text, encoding="utf-8")

        replace_whole(path, fill)
        return path

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read the report of a folder, or a report itself.

        Raises
        ------
        RunNotFoundError
            There is none.
        """
        path = Path(folder)
        path = path / NAME if path.is_dir() else path
        if not path.is_file():
            raise RunNotFoundError(f"{folder} holds no {NAME}: it is not the folder of a 'qwenvl timelapse' command.")
        return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
