"""Films with planted truth: nuclei of one field that move, divide, appear and leave, and the tracks they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.plan import plan_field
from wsi.synthetic.scene import World, share_inside
from wsi.synthetic.tissue.layout import STROMA, TUMOR, SceneWindow
from wsi.synthetic.tissue.nuclei import CLASSES, Nuclei
from wsi.synthetic.tissue.stain import Scanner

_LEAST_INSIDE = 0.4
_DAUGHTER = 0.78  # of the mother's radius: half her area, roughly
_APART = 1.35  # distance of two daughters at birth, in mother radii


@dataclass(frozen=True)
class Film:
    """A film and the truth about it.

    Attributes
    ----------
    frames : uint8 (t, size, size, 3)
    boxes : tuple of t float64 (n, 4)
        Nuclei of every frame, x_min, y_min, x_max, y_max in px.
    tracks : tuple of t int64 (n,)
        Which nucleus each box is; daughters have numbers of their own.
    parents : dict of int to int
        Mother of every nucleus that was born by division.
    mpp : float
        um per px.
    """

    frames: NDArray[np.uint8]
    boxes: tuple[NDArray[np.float64], ...]
    tracks: tuple[NDArray[np.int64], ...]
    parents: dict[int, int]
    mpp: float


@dataclass
class _Cell:
    """One nucleus on its way."""

    number: int
    shape: Nuclei
    place: NDArray[np.float64]
    pace: NDArray[np.float64]
    born: int
    ends: int
    divides: int | None


def make_film(
    seed: int,
    *,
    frames: int = 24,
    size: int = 224,
    mpp: float = 0.5,
    nuclei: int = 12,
    speed_um: float = 1.5,
    divisions: int = 2,
    arrivals: int = 2,
    departures: int = 2,
    still: tuple[int, int] | None = None,
) -> Film:
    """Draw a film of moving nuclei on tissue that stays where it is.

    Parameters
    ----------
    seed : int
        The same seed and settings give the same film.
    frames : int
    size : int
        Side in px.
    mpp : float
    nuclei : int
        Nuclei in the first frame.
    speed_um : float
        Mean way of a nucleus from frame to frame, in um; its direction changes slowly.
    divisions, arrivals, departures : int
        Nuclei that divide, appear and vanish, each in a frame of its own between the second and the last.
    still : (int, int), optional
        Nothing moves but in frames from the first of these up to, not including, the second; divisions, arrivals and
        departures fall into them too.
    """
    rng = np.random.default_rng([seed & 0xFFFFFFFF, frames, size, 0xF11A])
    side = size * mpp
    layout = plan_field(rng, side, STROMA, True, ("tumor", "lymphocyte"), ())
    world = World(layout, int(rng.integers(1 << 62)), Scanner.random(rng))
    window = SceneWindow(0, 0, size, size, mpp)
    shapes = _shapes(rng, nuclei + arrivals)
    first, stop = still or (1, frames)
    cells = _plan(rng, shapes, side, nuclei, (first, stop), frames, divisions, arrivals, departures)
    pictures, boxes, tracks, parents = [], [], [], {}
    number = len(cells)
    for frame in range(frames):
        for cell in list(cells):
            if cell.divides == frame:
                cell.ends = frame
                for daughter in _daughters(cell, rng, number, frame, frames):
                    parents[daughter.number] = cell.number
                    cells.append(daughter)
                number += 2
        moving = first <= frame < stop
        alive = [cell for cell in cells if cell.born <= frame < cell.ends]
        if moving and frame:
            _move(alive, rng, speed_um, side)
        shown = _joined([_at(cell) for cell in alive])
        image, _, _ = world.paint(window, shown)
        outlines = shown.polygon_um / mpp
        inside = share_inside(outlines, size, size) >= _LEAST_INSIDE if len(alive) else np.zeros(0, bool)
        cut = np.clip(outlines[inside], 0, size)
        boxes.append(np.concatenate([cut.min(axis=1), cut.max(axis=1)], axis=1).reshape(-1, 4))
        tracks.append(np.array([cell.number for cell in alive], np.int64)[inside])
        pictures.append(image)
    return Film(np.stack(pictures), tuple(boxes), tuple(tracks), parents, mpp)


def write_film(path: Path, film: Film | NDArray[np.uint8], *, interval: float | None, mpp: float | None) -> Path:
    """Write a film as OME-TIFF, with its times (s between frames) and scale where they are given."""
    import tifffile

    frames: NDArray[np.uint8] = film.frames if isinstance(film, Film) else film
    facts: dict[str, object] = {"axes": "TYXS"}
    if mpp is not None:
        facts |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    if interval is not None:
        facts |= {"TimeIncrement": interval, "TimeIncrementUnit": "s"}
    tifffile.imwrite(path, frames, photometric="rgb", metadata=facts, ome=True, compression="zlib", tile=(256, 256))
    return path


def _shapes(rng: np.random.Generator, count: int) -> list[Nuclei]:
    """Tumour nuclei, cut out of a field that is full of them."""
    layout = plan_field(rng, 200.0, TUMOR, True, ("tumor",), ())
    found = World(layout, int(rng.integers(1 << 62)), Scanner.random(rng)).nuclei_around(
        SceneWindow(0, 0, 400, 400, 0.5)
    )
    found = found[found.kind == CLASSES.index("tumor")]
    rows = rng.choice(len(found), count, replace=len(found) < count)
    return [found[np.array([row])] for row in rows]


def _plan(
    rng: np.random.Generator,
    shapes: list[Nuclei],
    side: float,
    nuclei: int,
    moving: tuple[int, int],
    frames: int,
    divisions: int,
    arrivals: int,
    departures: int,
) -> list[_Cell]:
    cells = []
    low, high = moving
    places = _apart(rng, len(shapes), side)
    for number, (shape, place) in enumerate(zip(shapes, places, strict=True)):
        born = 0 if number < nuclei else int(rng.integers(max(1, low), high))
        cells.append(_Cell(number, shape, place, rng.normal(0, 1, 2), born, frames, None))
    chosen = rng.permutation(nuclei)[: divisions + departures]
    late = max(low + 1, 2)
    for order, index in enumerate(chosen):
        frame = int(rng.integers(min(late, high - 1), high))
        if order < divisions:
            cells[index].divides = frame
        else:
            cells[index].ends = frame
    return cells


def _apart(rng: np.random.Generator, count: int, side: float) -> NDArray[np.float64]:
    """Places that keep their distance, as far as there is room."""
    places = rng.uniform(0.1, 0.9, (count, 2)) * side
    for _ in range(200):
        _push(places, 13.0)
        np.clip(places, 0.08 * side, 0.92 * side, out=places)
    return places


def _push(places: NDArray[np.float64], least: float) -> None:
    """Move pairs that are closer than `least` um away from each other."""
    between = places[:, None] - places[None]
    far = np.hypot(between[..., 0], between[..., 1]) + np.eye(len(places)) * 1e6
    lack = np.clip(least - far, 0, None)
    places += 0.25 * (between / far[..., None] * lack[..., None]).sum(axis=1)


def _move(cells: list[_Cell], rng: np.random.Generator, speed: float, side: float) -> None:
    places = np.stack([cell.place for cell in cells]) if cells else np.zeros((0, 2))
    for row, cell in enumerate(cells):
        cell.pace = 0.8 * cell.pace + 0.6 * rng.normal(0, 1, 2)
        places[row] += cell.pace * speed / 1.25  # mean length of a normal step in two dimensions
    _push(places, 11.0)
    for cell, place in zip(cells, places, strict=True):
        outside = (place < 0.05 * side) | (place > 0.95 * side)
        cell.pace = np.where(outside, -cell.pace, cell.pace)
        cell.place = np.clip(place, 0.05 * side, 0.95 * side)


def _daughters(mother: _Cell, rng: np.random.Generator, number: int, frame: int, frames: int) -> list[_Cell]:
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    outline = mother.shape.polygon_um[0] - mother.shape.centre_um[0]
    radius = float(np.hypot(*outline.T).mean())
    return [
        _Cell(
            number + k,
            _scaled(mother.shape, _DAUGHTER),
            mother.place + sign * along * radius * _APART / 2,
            sign * along,
            frame,
            frames,
            None,
        )
        for k, sign in enumerate((-1.0, 1.0))
    ]


def _scaled(shape: Nuclei, factor: float) -> Nuclei:
    centre = shape.centre_um[:, None]
    spots = shape.spots_um.copy()
    spots[..., :2] = centre + (spots[..., :2] - centre) * factor
    spots[..., 2] *= factor
    return Nuclei(
        shape.kind, shape.centre_um, centre + (shape.polygon_um - centre) * factor, shape.cell, shape.dye, spots
    )


def _at(cell: _Cell) -> Nuclei:
    """The nucleus at its present place."""
    shift = cell.place - cell.shape.centre_um[0]
    spots = cell.shape.spots_um.copy()
    spots[..., :2] += shift
    shape = cell.shape
    return Nuclei(shape.kind, shape.centre_um + shift, shape.polygon_um + shift, shape.cell, shape.dye, spots)


def _joined(parts: list[Nuclei]) -> Nuclei:
    if not parts:
        empty = np.zeros(0, np.int64)
        return Nuclei(
            empty, np.zeros((0, 2)), np.zeros((0, 24, 2)), np.zeros((0, 2), np.int64), np.zeros(0), np.zeros((0, 2, 3))
        )
    names = ("kind", "centre_um", "polygon_um", "cell", "dye", "spots_um")
    return Nuclei(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
