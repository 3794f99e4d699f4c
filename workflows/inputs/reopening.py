"""The slide of an earlier run, wherever it lies now: known by its fingerprint, never by its name alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from types import TracebackType
from typing import TYPE_CHECKING, Self

from workflows.errors import SlideMismatchError
from workflows.inputs.opening import open_path
from workflows.store.provenance import SlideFacts
from wsi.cleanup import clean_up
from wsi.errors import FrameError, SlideError
from wsi.files.address import RemotePath, may_exist
from wsi.files.names import path_of
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.slide import Slide

if TYPE_CHECKING:
    from workflows.store.run_store import RunStore

_ABOVE = 6
"""Folders above a run that are looked at, and as many of those that the slide lay in."""
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


@dataclass(frozen=True, slots=True)
class Reopened:
    """A slide that was looked for; a context manager that closes it.

    Attributes
    ----------
    slide : Slide or None
    note : str
        A sentence about why there is none; '' where there is one.
    """

    slide: Slide | None
    note: str = ""

    @property
    def said(self) -> str:
        """`note`, and what to do on the command line."""
        return f"{self.note} Name it with --slide."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.slide is not None:
            clean_up(error, self.slide.close)


def reopen(facts: SlideFacts, run: Path | None = None, slide: Path | None = None) -> Reopened:
    """Open the slide of an earlier run as it was opened then.

    It is looked for where it was; then, since run and slide may have moved together, in every folder above the run
    under its name and under the names of the folders that it lay in. What has another content is passed over.

    Parameters
    ----------
    facts : SlideFacts
        What the run records.
    run : Path, optional
        The run's folder.
    slide : Path, optional
        Where the user says that it lies; no other place is looked at.

    Raises
    ------
    SlideMismatchError
        `slide` has another content.
    SlideError
        `slide` cannot be opened.
    """
    if slide is not None:
        opened = open_as(facts, slide)
        if opened.fingerprint == facts.fingerprint:
            return Reopened(opened)
        with opened:
            raise SlideMismatchError(
                f"{slide} is not the slide of the run: its fingerprint is {opened.fingerprint}, and that of "
                f"{facts.name} was {facts.fingerprint}. Name the slide that the run was made on."
            )
    met: list[str] = []
    for place in _places(facts, run):
        try:
            opened = open_as(facts, place)
        except (SlideError, OSError) as error:
            met.append(f"{place} cannot be opened ({error})")
            continue
        if opened.fingerprint == facts.fingerprint:
            return Reopened(opened)
        opened.close()
        met.append(f"{place} has another content now")
    why = "; ".join(met[:2]) or f"{facts.path} is not there"
    beside = "" if run is None else f", and the slide is not beside {run}"
    return Reopened(None, f"{facts.name} was not found: {why}{beside}.")


def reopen_run(store: RunStore, slide: Path | None = None) -> Reopened:
    """`reopen` the slide of a run whose store is open."""
    return reopen(store.manifest.slide, store.folder, slide)


def open_as(facts: SlideFacts, path: Path) -> Slide:
    """Open a slide at a place with the scale, plane and colours of an earlier run. Raises SlideError."""
    given = facts.mpp_source == "user" and facts.mpp_x is not None and facts.mpp_y is not None
    return open_path(path, (facts.mpp_x, facts.mpp_y) if given else None, facts.options)  # type: ignore[arg-type]


def frames_of(facts: SlideFacts, given: PixelFrame | str | None = None, run: Path | None = None) -> SlideFrames:
    """Level-0 px and QuPath's px of a run's slide, without opening it where the run records them.

    Parameters
    ----------
    given : PixelFrame or str, optional
        What the user says about coordinates; where these are level-0 px, QuPath's frame does not matter.
    run : Path, optional
        Its folder, beside which a slide that moved is looked for.

    Raises
    ------
    FrameError
        The run is older than the record, and its slide is not at its place.
    """
    if facts.frames is not None:
        return facts.frames
    if facts.reader != "openslide":
        return SlideFrames()  # no other reader knew of bounds
    with reopen(facts, run) as found:
        if found.slide is not None:
            return SlideFrames.of(found.slide)
    if given is not None and PixelFrame(given) is PixelFrame.LEVEL0:
        return SlideFrames()
    raise FrameError(
        f"The run on {facts.name} was made before runs recorded which part of a slide QuPath shows, and the slide is "
        f"not at {facts.path}. Put it back, or say --frame level0 where coordinates count from the corner of the "
        "whole slide."
    )


def frames_of_run(run: Path | str, given: PixelFrame | str | None = None) -> SlideFrames:
    """`frames_of` the slide of a run folder.

    Raises
    ------
    RunNotFoundError, StoreError, FrameError
    """
    from workflows.store.run_store import RunStore

    with RunStore.open(run) as store:
        return frames_of(store.manifest.slide, given, store.folder)


def tell(note: str, say: Callable[[str], None] | None) -> None:
    """Hand a note to whoever shows notes; without one it is logged as a warning."""
    if say is not None:
        say(note)
    else:
        logging.getLogger(__name__).warning(note)


def _places(facts: SlideFacts, run: Path | None) -> Iterator[Path]:
    """Places that hold something, each once: where the slide was, then beside the run."""
    recorded = path_of(facts.path)
    seen = set()
    if may_exist(recorded):
        seen.add(recorded)
        yield recorded
    if run is None or isinstance(recorded, RemotePath):
        return
    plain: PurePath = PureWindowsPath(facts.path) if _DRIVE.match(facts.path) else recorded
    parts = [part for part in plain.parts if part != plain.anchor][-_ABOVE:]
    for above in list(run.absolute().parents)[:_ABOVE]:
        for first in reversed(range(len(parts))):
            place = above.joinpath(*parts[first:])
            if place not in seen and place.exists():
                seen.add(place)
                yield place
