"""What a file states, image by image, without a choice of plane or rendering."""

from __future__ import annotations

from os import PathLike

from wsi.cleanup import cleaning_up
from wsi.errors import PlaneError, SlideError, UnsupportedSlideError
from wsi.files.address import as_path
from wsi.readers.description import Description
from wsi.readers.opened import OpenOptions
from wsi.readers.registry import source_of


def describe(path: str | PathLike[str], *, series: int | None = None, reader: str | None = None) -> Description:
    """What a file states of one of its images, upright; no plane or rendering has to be named, no px are read.

    Parameters and errors are those of `open_slide`; PlaneError is raised only where an image has to be named.
    """
    source = source_of(as_path(path), OpenOptions(series=series, reader=reader))
    with cleaning_up(source.close):
        return source.description.upright()


def image_line(number: int, found: Description | SlideError) -> str:
    """One image of a file in words: its number, name and size, or why it cannot be opened."""
    if isinstance(found, SlideError):
        return f"{number}: {found}"
    level, name = found.levels[0], found.image.removeprefix(f"{number}: ") or "unnamed"
    size = f"{level.width}x{level.height} px"
    return f"{number}: {name}" if size in name else f"{number}: {name}, {size}"


def describe_images(
    path: str | PathLike[str], *, reader: str | None = None, most: int = 64
) -> tuple[Description | SlideError, ...]:
    """What a file states of each of its first `most` images, in the order of `series`.

    An image that cannot be opened stands there as its error.

    Raises
    ------
    SlideError
        The file cannot be opened, whichever of its images is named.
    """
    found: list[Description | SlideError] = []
    count = most
    while len(found) < min(count, most):
        try:
            each = describe(path, series=len(found), reader=reader)
        except PlaneError as error:
            if count == most:
                break  # there is no further image
            found.append(error)
        except SlideError as error:
            found.append(error)
        else:
            found.append(each)
            count = len(each.images) or most
    if not any(isinstance(each, Description) for each in found):
        raise next((each for each in found if isinstance(each, SlideError)), None) or UnsupportedSlideError(
            f"{path} holds no image that can be opened."
        )
    return tuple(found)
