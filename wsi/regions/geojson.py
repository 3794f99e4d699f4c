"""Reading GeoJSON files, plain or gzip, in level-0 px of a slide."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from wsi.errors import AnnotationError
from wsi.regions.frames import FrameRecord, PixelFrame, SlideFrames


def load_geojson(
    path: Path, frames: SlideFrames, frame: PixelFrame | str | None = None, *, error: type[Exception] = AnnotationError
) -> Any:
    """The JSON value of a file with every geometry in level-0 px.

    Parameters
    ----------
    path : Path
        Gzip is recognised by its first bytes, whatever the name.
    frames : SlideFrames
        Of the slide that the file is about.
    frame : PixelFrame or str, optional
        Frame of the coordinates, for a file that does not record it.

    Raises
    ------
    AnnotationError, or the class given as `error`
        The file is missing, unreadable or not JSON.
    FrameNeededError, FrameError
        See `SlideFrames.settle`.
    """
    return in_level0(load_unframed(path, error), path, frames, frame, error=error)


def in_level0(
    document: object,
    path: Path,
    frames: SlideFrames,
    frame: PixelFrame | str | None = None,
    *,
    error: type[Exception] = AnnotationError,
) -> object:
    """What `load_unframed` read from `path` with every geometry in level-0 px; see `load_geojson`."""
    settled = frames.settle(FrameRecord.of(document, path), frame, path)
    try:
        return frames.document_to_level0(document, settled)
    except RecursionError as failed:
        raise error(f"{path} is nested too deep for GeoJSON. Export the annotations again.") from failed


def load_unframed(path: Path, error: type[Exception] = AnnotationError) -> object:
    """The JSON value of a file as it stands: for readers that learn only later which slide it is about.

    Raises
    ------
    AnnotationError, or the class given as `error`
        The file is missing, unreadable or not JSON.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data.decode("utf-8-sig"))
    except FileNotFoundError as failed:
        raise error(f"There is no GeoJSON file at {path}.") from failed
    except (OSError, EOFError, zlib.error) as failed:
        raise error(f"{path} cannot be read: {failed}.") from failed
    except (UnicodeDecodeError, ValueError, RecursionError) as failed:
        raise error(f"{path} is not GeoJSON: {failed}. Export the annotations again.") from failed
