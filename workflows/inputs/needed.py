"""What a run still has to be given about its slide: said at once, before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenvl.request import Request
from workflows.inputs.fit import FLAGS, WHERE_FLAGS, fit_advice
from workflows.run.plan.cascade import coarse_request
from wsi.errors import ColourError, FrameNeededError, GridError, PlaneError, SlideError, UnknownMppError
from wsi.grid import side_of_tile
from wsi.pixels.colour import SrgbConverter
from wsi.readers.choices import Choice, choices_of, complaint
from wsi.readers.describe import describe, describe_images
from wsi.readers.description import Description
from wsi.readers.stack import Plane, Rendering
from wsi.regions.frames import SlideFrames
from wsi.regions.geojson import load_geojson
from wsi.tissue import METHODS


@dataclass(frozen=True, slots=True)
class Needed:
    """What is missing of a run over one file, and what is wrong.

    Attributes
    ----------
    description : Description
        The image that is asked about; the largest one where none is chosen.
    series : int or None
        Its number where it had to be taken from several.
    missing : tuple of Choice
        What has to be chosen.
    wrong : tuple of SlideError
        What was chosen and cannot be.
    """

    description: Description
    series: int | None
    missing: tuple[Choice, ...]
    wrong: tuple[SlideError, ...]
    which: str = ""
    """What the reader says about the images, where one has to be chosen."""


def needed_for(
    path: Path,
    *,
    mpp: float | None = None,
    options: Mapping[str, Any] | None = None,
    request: Request | None = None,
    mask: str = "auto",
    frame: str | None = None,
    factor: int | None = None,
) -> Needed:
    """Hold what was chosen against what a file states, without loading a model.

    Parameters
    ----------
    path : Path
    mpp : float, optional
        um per level-0 px as the user gives it.
    options : mapping, optional
        `plane`, `rendering`, `series`, `reader` and `colour` of `open_slide`, also in the words of the command line.
    request : Request, optional
        What will be asked; its scales decide whether the slide's is needed.
    mask, frame : str
        As `run_slide` takes them.
    factor : int, optional
        What the model wants sides of tiles to be multiples of. Without it no tile sizes are looked at.

    Raises
    ------
    SlideError
        No image of the file can be opened.
    """
    chosen = {key: value for key, value in (options or {}).items() if value is not None}
    missing: list[Choice] = []
    wrong: list[SlideError] = []
    series = chosen.get("series")
    description, taken, which = _described(path, None if series is None else int(series), chosen.get("reader"))
    if taken is not None:
        missing.append(Choice("series", "the image", f"--series {taken}", f"series={taken}"))
    parsed: dict[str, Any] = {}
    for name, kind in (("plane", Plane), ("rendering", Rendering)):
        value = chosen.get(name)
        try:
            parsed[name] = kind.parse(value) if isinstance(value, str) else value
        except PlaneError as error:
            wrong.append(error)
            parsed[name] = None
    choices = choices_of(description.layout, parsed["plane"], parsed["rendering"])
    refused = {name for name in ("plane", "rendering") if chosen.get(name) is not None}
    missing += [choice for choice in choices.missing if choice.name not in refused]
    wrong += [PlaneError(sentence) for sentence in choices.wrong]
    wrong += _colour_faults(path, description, chosen.get("colour"), choices.rendering is not None)
    if _frame_missing(description, mask, frame):
        missing.append(Choice("frame", f"from where the coordinates of {mask} count", "--frame qupath"))
    scales = () if request is None else _scales(request)
    mpp_xy = description.mpp_xy if mpp is None else (mpp, mpp)
    if mpp_xy is None and any(each.mpp is not None for each, _ in scales):
        missing.append(_scale(request))
    elif factor is not None:
        wrong += [fault for each, flags in scales if (fault := _misfit(description, each, mpp_xy, factor, flags))]
    return Needed(description, taken, tuple(missing), tuple(wrong), which)


def require_all(path: Path, **given: Any) -> None:
    """Raise one error with everything that `needed_for` finds; parameters are those of it.

    Raises
    ------
    SlideError
        UnknownMppError, PlaneError, GridError, ColourError or FrameNeededError where that alone is the matter.
    """
    found = needed_for(path, **given)
    if not found.missing and not found.wrong:
        return
    if not found.missing and len(found.wrong) == 1 and not isinstance(found.wrong[0], PlaneError):
        raise found.wrong[0]
    wrong = [_sentence(each) for each in found.wrong]
    message = complaint(path, str(found.description.layout), found.missing, wrong)
    if found.which:
        others = [choice for choice in found.missing if choice.name != "series"]
        message = f"{found.which} "
        if others or wrong:
            message += complaint(f"Image {found.series}", str(found.description.layout), others, wrong)
    names = {choice.name for choice in found.missing}
    if names == {"scale"} and not found.wrong:
        raise UnknownMppError(message)
    if names == {"frame"} and not found.wrong:
        raise FrameNeededError(message)
    raise PlaneError(message.rstrip(), found.missing)


def _described(path: Path, series: int | None, reader: str | None) -> tuple[Description, int | None, str]:
    """The image that is asked about; where one of several has to be chosen its number, and the reader's words on it."""
    try:
        return describe(path, series=series, reader=reader), None, ""
    except PlaneError as error:
        if series is not None:
            raise
        which = str(error)
    images = describe_images(path, reader=reader)
    sizes = {
        number: each.levels[0].width * each.levels[0].height
        for number, each in enumerate(images)
        if isinstance(each, Description)
    }
    largest = max(sizes, key=lambda number: sizes[number])
    return images[largest], largest, which  # type: ignore[return-value]


def _scale(request: Request | None) -> Choice:
    """The choice of a scale; pixels as they are do not go with a scale of the tiles that the user wants."""
    native = "" if request is not None and request.where is not None else " or --native for px as they are"
    return Choice(
        "scale",
        "the scale, which the file does not state, in um per px of level 0",
        f"--slide-mpp 0.25{native}",
        "mpp=0.25",
    )


def _scales(request: Request) -> tuple[tuple[Request, tuple[str, str, str]], ...]:
    """The request, and that of coarse tiles, each with its flags."""
    fine = ((request, FLAGS),)
    return fine if request.where is None else (*fine, (coarse_request(request), WHERE_FLAGS))


def _misfit(
    description: Description,
    request: Request,
    mpp_xy: tuple[float, float] | None,
    factor: int,
    flags: tuple[str, str, str],
) -> GridError | None:
    level = description.levels[0]
    try:
        side_of_tile((level.width, level.height), tile_size=request.tile_size, mpp=request.mpp, mpp_xy=mpp_xy)
    except GridError as error:
        if error.fits is None:
            return error
        return GridError(fit_advice(error, request, mpp_xy, factor, flags), error.fits)
    return None


def _colour_faults(path: Path, description: Description, colour: str | None, rendered: bool) -> list[SlideError]:
    if colour != "srgb":
        return []
    if rendered or not description.layout.is_rgb:
        return [ColourError("Rendered channels have no ICC profile: leave out --colour srgb.")]
    try:
        if description.icc_profile is not None:
            SrgbConverter(description.icc_profile, path)
    except ColourError as error:
        return [error]
    return []


def _frame_missing(description: Description, mask: str, frame: str | None) -> bool:
    """Whether a file of regions does not say in which px it is, where that matters."""
    if mask in METHODS or frame is not None:
        return False
    level = description.levels[0]
    frames = SlideFrames.cropped(description.qupath_bounds, (level.width, level.height))
    try:
        load_geojson(Path(mask), frames)
    except FrameNeededError:
        return True
    except SlideError:
        pass  # said where the mask is read
    return False


def _sentence(error: SlideError) -> str:
    text = str(error)
    return text if text.endswith(".") else f"{text}."
