"""How good tracks are, beside known ones: links found, identities kept, divisions found.

MOTA and identity switches after Bernardin and Stiefelhagen, EURASIP Journal on Image and Video Processing (2008); links
as in the Cell Tracking Challenge: an edge between two neighbouring sightings of one object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from workflows.science.timelapse.linking import TrackLinks


@dataclass(frozen=True, slots=True)
class TrackScores:
    """Counts, and the shares made of them."""

    found: int
    missed: int
    false: int
    links_right: int
    links_made: int
    links_true: int
    switches: int
    """How often an object goes on under another number than the one it had when it was last seen."""
    divisions_right: int
    divisions_made: int
    divisions_true: int

    @property
    def detection_f1(self) -> float:
        """Of the objects themselves, frame by frame: the ceiling of everything below."""
        return _f1(self.found, self.found + self.false, self.found + self.missed)

    @property
    def link_f1(self) -> float:
        """Harmonic mean of the share of made links that are true and of true links that were made."""
        return _f1(self.links_right, self.links_made, self.links_true)

    @property
    def division_f1(self) -> float:
        """The same of divisions, both daughters right."""
        return _f1(self.divisions_right, self.divisions_made, self.divisions_true)

    @property
    def mota(self) -> float:
        """1 less the share of missed, false and switched objects among the true ones; may be negative."""
        truth = self.found + self.missed
        return 1 - (self.missed + self.false + self.switches) / truth if truth else 0.0


def _f1(right: int, made: int, true: int) -> float:
    return 2 * right / (made + true) if made + true else 1.0


def score_tracks(
    boxes: Sequence[NDArray[np.float64]],
    links: TrackLinks,
    true_boxes: Sequence[NDArray[np.float64]],
    true_tracks: Sequence[NDArray[np.int64]],
    true_parents: Mapping[int, int] | None = None,
    *,
    least_iou: float = 0.3,
) -> TrackScores:
    """Compare tracks with known ones.

    Parameters
    ----------
    boxes : sequence of float64 arrays (n, 4)
        What was linked, frame by frame, in px.
    links : TrackLinks
    true_boxes, true_tracks : sequences of float64 (m, 4) and int64 (m,)
    true_parents : mapping of int to int, optional
    least_iou : float
        Overlap from which a found object is a true one; one to one, of greatest total overlap.
    """
    found = missed = false = switches = 0
    names: dict[tuple[int, int], int] = {}  # (frame, found row) -> true track
    seen: dict[int, list[tuple[int, int]]] = {}  # true track -> (frame, found row) where it was found
    last: dict[int, int] = {}
    for frame, (own, truth, numbers) in enumerate(zip(boxes, true_boxes, true_tracks, strict=True)):
        rows = np.flatnonzero(links.tracks[frame] >= 0)
        own = np.asarray(own, np.float64).reshape(-1, 4)[rows]
        table = _iou(own, truth)
        pairs = [(a, b) for a, b in zip(*linear_sum_assignment(-table), strict=True) if table[a, b] >= least_iou]
        found += len(pairs)
        missed += len(truth) - len(pairs)
        false += len(own) - len(pairs)
        for a, b in pairs:
            row, number = int(rows[a]), int(numbers[b])
            track = int(links.tracks[frame][row])
            names[frame, row] = number
            seen.setdefault(number, []).append((frame, row))
            switches += number in last and last[number] != track
            last[number] = track
    true_links = {link for places in seen.values() for link in pairwise(places)}
    made_links = _made(links)
    divisions = _divisions(true_parents or {})
    made_divisions = _named_divisions(links, names)
    # Links of objects that were never found cannot be made, and count as missing all the same.
    all_true = sum(_true_links(true_tracks).values())
    return TrackScores(
        found,
        missed,
        false,
        len(true_links & made_links),
        len(made_links),
        all_true,
        switches,
        len(divisions & made_divisions),
        len(_divisions(links.parents)),
        len(divisions),
    )


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0))


def _true_links(tracks: Sequence[NDArray[np.int64]]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for row in tracks:
        for number in row.tolist():
            counts[number] = counts.get(number, -1) + 1
    return counts


def _made(links: TrackLinks) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    places: dict[int, list[tuple[int, int]]] = {}
    for frame, row in enumerate(links.tracks):
        for index, track in enumerate(row.tolist()):
            if track >= 0:
                places.setdefault(track, []).append((frame, index))
    return {link for each in places.values() for link in pairwise(each)}


def _divisions(parents: Mapping[int, int]) -> set[tuple[int, frozenset[int]]]:
    daughters: dict[int, set[int]] = {}
    for child, mother in parents.items():
        daughters.setdefault(mother, set()).add(child)
    return {(mother, frozenset(children)) for mother, children in daughters.items()}


def _named_divisions(links: TrackLinks, names: Mapping[tuple[int, int], int]) -> set[tuple[int, frozenset[int]]]:
    """Divisions in the numbers of the truth: of the mother's last sighting and the daughters' first ones."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for frame, row in enumerate(links.tracks):
        for index, track in enumerate(row.tolist()):
            name = names.get((frame, index))
            if track >= 0 and name is not None:
                first.setdefault(track, name)
                last[track] = name
    return {
        (last[mother], frozenset(first[child] for child in children))
        for mother, children in _divisions(links.parents)
        if mother in last and all(child in first for child in children)
    }
