"""A file of corrections as features of a run: every place with its own name, class and what our export wrote to it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from workflows.errors import WorkflowError
from workflows.inputs.reopening import frames_of
from workflows.review.decisions import Box
from workflows.store.run_store import RunStore
from wsi.regions.frames import HEAD, FrameRecord, PixelFrame
from wsi.regions.geojson import load_unframed
from wsi.regions.qupath import QuPathObject, read_objects

ANSWERS = "answers"
"""What `workflows.export.geojson` writes of a run that was not finished: the number of its newest answer."""


class CorrectionsError(WorkflowError):
    """A file with corrections cannot be read into this run; nothing was."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One place of a feature, in level-0 px.

    Attributes
    ----------
    name : str
        Its UUID; a feature without one gets the same each time it is read.
    named : bool
        The file states that UUID.
    label : str
        '' where it has none.
    review : str or None
        What reviewers had said when it was exported.
    key : (tile, item) or None
        Of the object of a run that it was exported as.
    here : bool
        It lies on the run's plane of a stack.
    """

    where: str
    name: str
    named: bool
    label: str
    box: Box
    point: bool
    review: str | None
    key: tuple[int, int] | None
    here: bool


@dataclass(frozen=True, slots=True)
class CorrectedFile:
    """What a file holds.

    Attributes
    ----------
    run : str or None
        The run that its head names; QuPath drops the head.
    answers : int or None
        Newest answer of the run when it was exported, where it was not finished then.
    """

    features: tuple[Feature, ...]
    run: str | None
    answers: int | None
    refused: tuple[str, ...]
    lines: int
    present: frozenset[str] = frozenset()
    """Names of features that cannot be read or are no objects: they are in the file, so they were not deleted."""


def read_file(path: Path, store: RunStore, frame: PixelFrame | str | None) -> CorrectedFile:
    """Read a file against the slide of a run.

    Raises
    ------
    CorrectionsError
        It cannot be read, holds no objects, or belongs to another slide.
    FrameNeededError, FrameError
    """
    facts = store.manifest.slide
    document = load_unframed(path, CorrectionsError)
    found = document.get(HEAD) if isinstance(document, dict) else None
    head = found if isinstance(found, Mapping) else {}
    if head.get("slide", facts.fingerprint) != facts.fingerprint:
        raise CorrectionsError(f"{path} belongs to another slide than {facts.name}. Choose the file of this run.")
    frames = frames_of(facts, frame, store.folder)
    settled = frames.settle(FrameRecord.of(document, path), frame, path)
    read = read_objects(document)
    plane = dict(re.findall(r"([zt])=(\d+)", facts.options.get("plane") or ""))
    here = (int(plane.get("z", 0)), int(plane.get("t", 0)))
    refused = list(read.refused)
    features, outside, marks = [], [], [_whole(head.get(ANSWERS))]
    for item in read.objects:
        marks.append(_whole(item.metadata.get(ANSWERS)))
        for place in item.places:
            x0, y0, x1, y1 = box = tuple(frames.to_level0(place.box, settled).tolist())
            feature = _feature(item, box, place.point, (item.z, item.t) == here)
            if 0 <= x0 + x1 <= 2 * facts.width and 0 <= y0 + y1 <= 2 * facts.height:
                features.append(feature)
            else:
                outside.append(feature)
    total = len(features) + len(outside)
    if not total:
        why = f": {refused[0]}" if refused else ""
        raise CorrectionsError(f"{path} holds no object with an outline{why}.")
    if outside:
        raise CorrectionsError(
            f"{len(outside):,} of {total:,} objects of {path} lie outside {facts.name} "
            f"({facts.width} x {facts.height} px), such as {outside[0].where}: it belongs to another slide, or "
            "its px are not those of this one."
        )
    run = head.get("run")
    known = [mark for mark in marks if mark is not None]
    return CorrectedFile(
        tuple(features),
        run if isinstance(run, str) else None,
        min(known, default=None),
        tuple(refused),
        read.lines,
        frozenset(each.lower() for each in read.unread),
    )


def one_name_each(features: tuple[Feature, ...], places: Mapping[str, Box]) -> tuple[Feature, ...]:
    """The features with every name once.

    Of several with one UUID (copies, the points of one MultiPoint) the one nearest to the object of that name keeps
    it, the first where there is none; equal copies are one, the others get names of their own that do not change.

    Parameters
    ----------
    places : mapping of name to box
        The objects of the run.
    """
    groups: dict[str, list[Feature]] = {}
    for feature in features:
        groups.setdefault(feature.name, []).append(feature)
    return tuple(each for group in groups.values() for each in _renamed(group, places))


def _renamed(group: list[Feature], places: Mapping[str, Box]) -> Iterator[Feature]:
    if len(group) == 1:
        yield group[0]
        return
    different = list({(each.label, each.box, each.point): each for each in reversed(group)}.values())[::-1]
    place = places.get(group[0].name)
    if place is None:
        nearest = different[0]
    else:
        nearest = min(different, key=lambda each: float(np.abs(np.subtract(each.box, place)).sum()))
    yield nearest
    for each in different:
        if each is not nearest:
            yield replace(each, name=_derived(each.name, each.box, each.label), named=False)


def _feature(item: QuPathObject, box: Box, point: bool, here: bool) -> Feature:
    try:
        name, named = str(uuid.UUID(item.id)), True
    except (ValueError, TypeError, AttributeError):
        name, named = _derived(item.id, box, item.label or None), False
    tile, number = (_whole(item.metadata.get(key)) for key in ("tile", "item"))
    review = item.metadata.get("review")
    key = None if tile is None or number is None else (tile, number)
    return Feature(
        item.where, name, named, item.label, box, point, review if isinstance(review, str) else None, key, here
    )


def _derived(name: str | None, box: Box, label: str | None) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, box, label])))


def _whole(value: object) -> int | None:
    """A whole number of our own, as a number or a word; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        return int(value)
    return value if type(value) is int and 0 <= value < 10**15 else None
