"""What a file leaves to its user (plane, rendering, scale): all that is missing is said at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wsi.errors import PlaneError
from wsi.readers.description import Layout
from wsi.readers.stack import ChannelColor, Plane, Rendering


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that has to be chosen.

    Attributes
    ----------
    name : str
        'series', 'plane', 'rendering', 'scale' or 'frame'.
    what : str
        What is chosen, in words that end a sentence.
    flag : str
        An example for the command line, one or two words of a shell, unquoted.
    python : str
        The same as a keyword argument of `open_slide`; empty where it is none.
    """

    name: str
    what: str
    flag: str
    python: str = ""


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices of one opening, settled as far as they go.

    Attributes
    ----------
    plane : Plane
    rendering : Rendering or None
        None where the file is RGB, or where none could be settled.
    missing : tuple of Choice
        What has to be chosen still.
    wrong : tuple of str
        What was chosen and does not exist, a sentence each.
    """

    plane: Plane
    rendering: Rendering | None
    missing: tuple[Choice, ...] = ()
    wrong: tuple[str, ...] = field(default=())


def choices_of(layout: Layout, plane: Plane | None, rendering: Rendering | None) -> Choices:
    """Hold what was chosen against what an image holds."""
    missing: list[Choice] = []
    wrong: list[str] = []
    if plane is None:
        if layout.times > 1 or layout.depths > 1:
            missing.append(Choice("plane", "the plane", "--plane z=0,t=0", "plane=Plane(z=0, t=0)"))
    elif not (0 <= plane.t < layout.times and 0 <= plane.z < layout.depths):
        wrong.append(
            f"There is no plane {plane}: t goes from 0 to {layout.times - 1}, z from 0 to {layout.depths - 1}."
        )
    if rendering is None:
        settled = _by_itself(layout)
        if settled is None and not layout.is_rgb:
            example = suggested_rendering(layout)
            missing.append(
                Choice(
                    "rendering",
                    "how the channels become red, green and blue",
                    f"--rendering {example}",
                    f"rendering=Rendering.parse({example!r})",
                )
            )
    else:
        settled, faults = _settled(layout, rendering)
        wrong += faults
    return Choices(plane or Plane(), settled, tuple(missing), tuple(wrong))


def settle(where: object, layout: Layout, plane: Plane | None, rendering: Rendering | None) -> Choices:
    """The plane and rendering of an opening. Raises PlaneError with all that is missing or does not exist."""
    choices = choices_of(layout, plane, rendering)
    if choices.missing or choices.wrong:
        message = complaint(where, str(layout), choices.missing, choices.wrong)
        raise PlaneError(message, choices.missing)
    return choices


def complaint(where: object, holds: str, missing: Sequence[Choice], wrong: Sequence[str] = ()) -> str:
    """One message of everything that is missing, each with its flag, and of what was chosen and does not exist."""
    text = f"{where} holds {holds}."
    if wrong:
        text += " " + " ".join(wrong)
    if missing:
        listed = "; ".join(f"{choice.what} ({choice.flag})" for choice in missing)
        text += f" Choose: {listed}."
        python = ", ".join(choice.python for choice in missing if choice.python)
        if python:
            text += f" In Python: open_slide(path, {python})."
    return text


def suggested_plane(layout: Layout) -> Plane:
    """The plane to try first: the middle depth of the first time point."""
    return Plane(t=0, z=layout.depths // 2)


def suggested_rendering(layout: Layout) -> str:
    """A rendering of up to three channels for an image that needs one, in the words of the command line.

    Colours go by the order of channels; ranges come from the pixels, except in 8 bits.
    """
    eight = layout.dtype in (np.uint8, np.bool_)
    if layout.channels == 3 and eight:
        return "rgb"
    colors = ("gray",) if layout.channels == 1 else ("red", "green", "blue")
    span = "" if eight else ":auto"
    return ",".join(f"{i}:{color}{span}" for i, color in zip(range(layout.channels), colors, strict=False))


SERIES = Choice("series", "the image", "--series 0", "series=0")
SCALE = Choice(
    "scale",
    "the scale, which the file does not state, in um per px of level 0",
    "--slide-mpp 0.25, or --native to take px as they are",
    "mpp=0.25",
)


def _by_itself(layout: Layout) -> Rendering | None:
    """What an image of one channel is shown as when nobody says: gray, over all values or those it holds."""
    if layout.is_rgb or layout.channels != 1:
        return None
    if layout.dtype in (np.uint8, np.bool_):
        return Rendering.gray(0, 0, layout.full)
    return Rendering.automatic(0)


def _settled(layout: Layout, rendering: Rendering) -> tuple[Rendering, list[str]]:
    """A rendering with the ranges that need no saying, and what is wrong with it."""
    if not rendering.channels:
        return rendering, ["A rendering needs at least one channel, like 0:gray:0-255."]
    settled, wrong = [], []
    for channel in rendering.channels:
        if not 0 <= channel.index < layout.channels:
            wrong.append(f"There is no channel {channel.index}: channels are counted from 0.")
        elif channel.auto or (channel.low is not None and channel.high is not None):
            settled.append(channel)
        elif layout.dtype in (np.uint8, np.bool_):
            settled.append(ChannelColor(channel.index, channel.color, 0.0, layout.full))
        else:
            wrong.append(
                f"Channel {channel.index} needs the stored values that are black and full colour, like "
                f"{channel.index}:gray:0-4095, or {channel.index}:gray:auto."
            )
    return Rendering(tuple(settled)), wrong
