"""What a reader found in an annotation file, before it is known to which slide it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune.dataset.samples import Box, Ring
from wsi.regions.frames import FrameRecord, PixelFrame, SlideFrames


@dataclass(frozen=True, slots=True)
class FoundLabels:
    """One label as its file states it.

    Attributes
    ----------
    picture : str or None
        Name of the picture in the file; None where the file is about the one slide it lies beside.
    name : str
        Class; '' where the file names none.
    where : str
        Place in the file, for messages.
    point : bool
        Only a place is known; any other box without extent is no label.
    pieces : tuple of rings
        Outlines of an object in several pieces, which `box` spans; `ring` is empty then.
    holes : bool
        An outline has a hole, so that it delimits no area.
    """

    picture: str | None
    name: str
    box: Box
    ring: Ring = ()
    where: str = ""
    point: bool = False
    pieces: tuple[Ring, ...] = ()
    holes: bool = False

    def in_level0(self, frames: SlideFrames, frame: PixelFrame) -> FoundLabels:
        """The same label with its coordinates, which are in `frame`, in level-0 px."""
        if not frames.differ:
            return self
        box = frames.to_level0(self.box, frame).tolist()
        ring, *pieces = (
            tuple((x, y) for x, y in frames.to_level0(each, frame).tolist()) if each else ()
            for each in (self.ring, *self.pieces)
        )
        return replace(self, box=tuple(box), ring=ring, pieces=tuple(pieces))

    def in_px(self, width: int, height: int) -> FoundLabels:
        """The same label with its coordinates, which are shares of an image, in px of one of width x height."""
        x0, y0, x1, y1 = self.box
        ring = tuple((round(x * width, 6), round(y * height, 6)) for x, y in self.ring)
        box = (round(x0 * width, 6), round(y0 * height, 6), round(x1 * width, 6), round(y1 * height, 6))
        return replace(self, box=box, ring=ring)


@dataclass(frozen=True, slots=True)
class FoundArea:
    """An area that the file itself marks as reviewed; `names` empty means all classes.

    `bare` marks a tile of a run in which nothing was found and nothing drawn: whether somebody looked at it, the
    file does not say.
    """

    picture: str | None
    ring: Ring
    names: tuple[str, ...] = ()
    bare: bool = False


@dataclass(frozen=True)
class Imported:
    """The content of one annotation file or folder.

    Attributes
    ----------
    format : str
    found : tuple of FoundLabels
    areas : tuple of FoundArea
    sizes : mapping of picture name to (width, height)
        As the file states them, to be held against the pictures themselves.
    whole_pictures : bool
        The format's convention is that all objects of a picture are labelled (VOC, COCO, label images).
    """

    format: str
    found: tuple[FoundLabels, ...]
    areas: tuple[FoundArea, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    whole_pictures: bool = False
    framed: bool = False
    """Coordinates may be px of what QuPath shows of a slide; in all other formats they are px of the whole picture."""
    record: FrameRecord | None = None
    """What a framed file says about that."""
    relative: bool = False
    """Coordinates are shares of the image's width and height, not px."""
    licence: str = ""
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """Rows that cannot be read, each with its place in the file and what it states."""
    incomplete: frozenset[str | None] = frozenset()
    """Images of which a label is missing: rows were refused or left out, so that absence means nothing there."""


def box_of(points: Sequence[Sequence[float]]) -> Box:
    """Bounding box of points (x, y)."""
    xs, ys = [float(point[0]) for point in points], [float(point[1]) for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def ring_of(points: Sequence[Sequence[float]]) -> Ring:
    """Points as a ring, without its repeated last point."""
    ring = [(float(point[0]), float(point[1])) for point in points]
    return tuple(ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring)
