"""Errors of the pixel side. Every message says what happened, where, and what to do next."""

from __future__ import annotations


class SlideError(Exception):
    """Base of every error raised by `wsi`."""


class LimitError(SlideError):
    """The process may open no further file, start no further thread, or write no larger file; see `wsi.limits`.

    Not the fault of any slide or tile: work stops there, and what was finished is kept.
    """


class SlideNotFoundError(SlideError, FileNotFoundError):
    """No file, or no slide in the folder, at the path given."""


class UnsupportedSlideError(SlideError):
    """The file is not an image that any reader knows, or it is truncated."""


class ReadError(SlideError):
    """Pixels that should exist could not be read. A tile that meets it is failed, never white."""


class SlideChangedError(SlideError):
    """The file was rewritten or replaced while it was read.

    Attributes
    ----------
    doubtful : bool
        True where what was read before may be of the other content too, since no check could have seen the change.
    """

    def __init__(self, message: str, doubtful: bool = False) -> None:
        super().__init__(message)
        self.doubtful = doubtful


class RegionError(SlideError, ValueError):
    """A region lies outside the slide, or has no area."""


class UnknownMppError(SlideError, ValueError):
    """The slide states no physical pixel size; the user has to give it."""


class GridError(SlideError, ValueError):
    """Tile size, overlap or scale do not fit the slide.

    Attributes
    ----------
    fits : float or None
        Side, in px of the wanted scale, of the largest tile that lies inside the slide, where tiles are too large.
    """

    def __init__(self, message: str, fits: float | None = None) -> None:
        super().__init__(message)
        self.fits = fits


class MaskError(SlideError, ValueError):
    """A tissue mask is empty or cannot be read."""


class AnnotationError(SlideError, ValueError):
    """A file of annotations cannot be read."""


class FrameError(AnnotationError):
    """Coordinates of a file cannot be placed on the slide: what it records and what is known of the slide differ."""


class FrameNeededError(FrameError):
    """QuPath crops the slide, and neither the file nor the user says in which px its coordinates are."""


class PlaneError(SlideError, ValueError):
    """An image, plane or rendering has to be named, or the one named does not exist.

    Attributes
    ----------
    missing : tuple of wsi.readers.choices.Choice
        What has to be named, where that is known one by one.
    """

    def __init__(self, message: str, missing: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


class ColourError(SlideError, ValueError):
    """Colours cannot be converted: the image has none of its own, or its ICC profile is not usable."""
