"""Asking about one region of a slide: its pixels, what was marked in it, and where the answer points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwenvl.engines.base import Engine
    from wsi.slide import Slide
    from wsi.tile import Tile


def ask_region(engine: Engine, command: Mapping[str, Any]) -> dict[str, object]:
    """Ask about a region, and give the answer as plain values with its objects in level-0 px.

    Parameters
    ----------
    engine : Engine
    command : mapping
        'slide' (path), 'fingerprint' (of what the viewer shows; may be left out), 'model' (fields of `RunOptions`),
        'region' [x0, y0, width0, height0] in level-0 px, 'size' [width, height] of the picture in px, 'request',
        'marks', a list of fields of `Mark` with places in level-0 px, which the model sees drawn on the picture, and
        'turns', pairs of what was asked about it before and the model's words.

    Raises
    ------
    SlideError, EngineError, RequestError
    """
    from qwenvl.images.marks import Mark, draw_marks
    from qwenvl.request import Request
    from qwenvl.subject import NamedPicture, Subject, Turn
    from wsi.tile import Tile

    tile = Tile(0, *command["region"], *command["size"])
    picture = read_tiles(command, [tile])[0]
    if command.get("marks"):
        marks = [
            Mark(**mark | {"points": tuple(tile.to_tile(*place) for place in mark["points"])})
            for mark in command["marks"]
        ]
        picture = draw_marks(picture, marks)
    turns = tuple(Turn(*pair) for pair in command.get("turns", ()))
    about: Any = Subject((NamedPicture("", picture),), turns=turns) if turns else picture
    answer = engine.answer([about], Request.model_validate(command["request"]))[0]
    trained = engine.info.trained
    doubts = [] if trained is None else list(trained.doubts(tuple(command["size"]), command["request"].get("mpp")))
    objects = []
    for found in answer.objects:
        corners = found.box if found.box is not None else (*found.point, *found.point)  # type: ignore[misc]
        low, high = tile.to_level0(corners[0], corners[1]), tile.to_level0(corners[2], corners[3])
        objects.append({"label": found.label, "box": [*low, *high], "point": found.box is None, "score": found.score})
    return {
        "status": answer.status.value,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "error": answer.error,
        "raw": answer.raw,
        "notes": list(answer.notes),
        "seconds": answer.seconds,
        "objects": objects,
        "value": answer.value,
        "scores": dict(answer.scores),
        "doubts": doubts,
    }


def seconds_per_tile(engine: Engine, command: Mapping[str, Any]) -> float:
    """Seconds that the engine takes for a tile of 'tiles', a list of the numbers of a `Tile` without its index."""
    import time

    from qwenvl.request import Request
    from wsi.tile import Tile

    request = Request.model_validate(command["request"])
    pictures = read_tiles(command, [Tile(0, *numbers) for numbers in command["tiles"]])
    engine.answer(pictures[:1], request)  # the first answer pays for what is prepared once
    begun = time.perf_counter()
    engine.answer(pictures, request)
    return (time.perf_counter() - begun) / len(pictures)


def read_tiles(command: Mapping[str, object], tiles: Sequence[Tile]) -> list[Any]:
    """Pixels of tiles of the slide that a command names. Raises SlideError, SlideChangedError."""
    with open_shown(command) as slide, slide.watch.held():
        return [
            slide.read_scaled(tile.x0, tile.y0, tile.width0, tile.height0, (tile.width, tile.height)) for tile in tiles
        ]


def open_shown(command: Mapping[str, Any]) -> Slide:
    """Open the slide that a command names; another content than the viewer shows is refused.

    Raises
    ------
    SlideChangedError
        The command says which fingerprint the viewer shows, and the file has another by now.
    SlideError
    """
    from workflows.inputs.opening import open_path
    from wsi.errors import SlideChangedError

    wanted = command["model"]
    options = {
        name: wanted[name] for name in ("plane", "rendering", "series", "colour") if wanted.get(name) is not None
    }
    slide = open_path(Path(command["slide"]), wanted.get("slide_mpp"), options)
    shown = command.get("fingerprint")
    if not shown or slide.fingerprint == shown:
        return slide
    with slide:
        raise SlideChangedError(
            f"{command['slide']} has changed since the viewer opened it (fingerprint {shown}, now "
            f"{slide.fingerprint}). Close its layer and open the file again, then ask."
        )
