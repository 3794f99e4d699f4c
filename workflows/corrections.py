"""Corrections made in QuPath, read back into a run's reviews.

`qwenvl export geojson` gives every object a UUID that is the same on any machine, and QuPath keeps it. What comes
back under a known UUID is compared with the object as it stands: another class is a relabelling, another outline a
reshaping. A UUID that the run does not know is an object that was drawn. Everything of one file is one step, so that
one undo takes it back; a file read twice changes nothing the second time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflows._opening import frames_of
from workflows.errors import WorkflowError
from workflows.review import Action, Box, Change, Ledger, Reviews, Verdict
from workflows.reviewed import State
from workflows.store import RunStore
from wsi.frames import HEAD, PixelFrame
from wsi.geojson import in_level0, load_unframed

_SAME_PX0 = 0.011
"""Exports write hundredths of a px."""


class CorrectionsError(WorkflowError):
    """A file with corrections cannot be read into this run; nothing was."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a file changed, as numbers of objects."""

    relabelled: int = 0
    reshaped: int = 0
    accepted: int = 0
    rejected: int = 0
    added: int = 0
    same: int = 0
    missing: int = 0
    """Objects of the run that are not in the file; rejected where that was asked for."""
    unclassified: int = 0
    """Drawn objects without a class, left out."""

    def __str__(self) -> str:
        parts = {
            "relabelled": self.relabelled, "moved or resized": self.reshaped, "accepted": self.accepted,
            "rejected": self.rejected, "drawn": self.added, "unchanged": self.same,
            "not in the file": self.missing, "without a class, left out": self.unclassified,
        }  # fmt: skip
        return ", ".join(f"{number:,} {name}" for name, number in parts.items() if number) or "nothing"


@dataclass(frozen=True, slots=True)
class _Feature:
    name: str
    label: str | None
    box: Box
    point: bool
    review: str | None


def read_corrections(
    run: Path | str,
    path: Path | str,
    *,
    who: str | None = None,
    reject_missing: bool = False,
    frame: PixelFrame | str | None = None,
) -> Corrections:
    """Take over what was changed in a GeoJSON file that this run exported.

    Parameters
    ----------
    run : path
        Run folder; it may still be running.
    path : path
        GeoJSON as QuPath writes it, plain or gzip.
    who : str, optional
        Reviewer; by default the user.
    reject_missing : bool
        Objects that are not in the file were deleted there: reject them. Leave it out for a file that holds a part.
    frame : 'qupath' or 'level0', optional
        Frame of the coordinates. The export records it, and QuPath drops the record when it writes the file anew: it is
        needed then where QuPath crops the slide.

    Raises
    ------
    CorrectionsError
        The file cannot be read, holds no objects, or belongs to another slide.
    FrameNeededError, FrameError
        It is not known in which px the coordinates are, or the file was made for another slide.
    RunNotFoundError, StoreError
    """
    path = Path(path)
    with RunStore.open(run) as store, Reviews.open(run, who) as reviews:
        features = _read(path, store, frame)
        known = _known(store)
        counts = dict.fromkeys(Corrections.__dataclass_fields__, 0)
        changes: list[Change] = []
        seen: set[str] = set()
        for feature in features:
            seen.add(feature.name)
            now = known.get(feature.name)
            change, kind = _new(feature, reviews.ledger) if now is None else _corrected(feature, now)
            counts[kind] += 1
            if change is not None:
                changes.append(change)
        absent = [change for name, change in known.items() if name not in seen]
        counts["missing"] = len(absent)
        if reject_missing:
            counts["rejected"] += len(absent)
            changes += [_with(change, Action.REJECT, Verdict.REJECTED) for change in absent]
        if changes:
            reviews.decide(changes, note=f"from {path.name}")
    return Corrections(**counts)


def _known(store: RunStore) -> dict[str, Change]:
    """Every object of the run as it stands, by UUID, in the form of a change that would leave it so."""
    reviewed = store.reviewed_objects()
    manifest, found = store.manifest, {}
    for row in np.flatnonzero(reviewed.kept).tolist():
        key = int(reviewed.key[row])
        label = reviewed.labels[reviewed.label[row]]
        box: Box = tuple(reviewed.box[row].tolist())
        name = reviewed.name(row, manifest)
        tile, item = (None, None) if key < 0 else (key >> 20, key & ((1 << 20) - 1))
        seen = None if key < 0 else reviewed.original.get(row, (label, box))
        decided = reviewed.about.get(row, ())
        if key < 0 and decided:
            change = reviewed.decisions[row].change
            assert change is not None
            tile, item = change.tile, change.item
            seen = None if change.seen_box is None else (change.seen_label or label, change.seen_box)
        found[name] = Change(
            Action.ACCEPT, decided[0] if decided else name, State(int(reviewed.state[row])).verdict, label, box,
            bool(reviewed.point[row]), tile, item, *(seen or (None, None)),
        )  # fmt: skip
    return found


def _corrected(feature: _Feature, now: Change) -> tuple[Change | None, str]:
    label = feature.label or now.label
    moved = max(abs(a - b) for a, b in zip(feature.box, now.box, strict=True)) > _SAME_PX0
    box = feature.box if moved else now.box
    if label != now.label:
        return _with(now, Action.RELABEL, Verdict.EDITED, label, box), "relabelled"
    if moved:
        return _with(now, Action.RESHAPE, Verdict.EDITED, label, box), "reshaped"
    if now.verdict is Verdict.UNREVIEWED and feature.review == Verdict.ACCEPTED:
        return _with(now, Action.ACCEPT, Verdict.ACCEPTED), "accepted"
    return None, "same"


def _new(feature: _Feature, ledger: Ledger) -> tuple[Change | None, str]:
    if ledger.history(feature.name):
        return None, "same"  # rejected or undone here since: the file is older than that
    if feature.label is None:
        return None, "unclassified"
    return Change(
        Action.ADD, feature.name, Verdict.EDITED, feature.label, feature.box, feature.point
    ), "added"


def _with(
    change: Change, action: Action, verdict: Verdict, label: str | None = None, box: Box | None = None
) -> Change:
    return Change(
        action, change.object, verdict, label or change.label, box or change.box, change.point, change.tile,
        change.item, change.seen_label, change.seen_box,
    )  # fmt: skip


# ---------------------------------------------------------------------- the file


def _read(path: Path, store: RunStore, frame: PixelFrame | str | None) -> list[_Feature]:
    facts = store.manifest.slide
    document = load_unframed(path, CorrectionsError)
    head = document.get(HEAD) if isinstance(document, dict) else None
    if isinstance(head, Mapping) and head.get("slide", facts.fingerprint) != facts.fingerprint:
        raise CorrectionsError(
            f"{path} belongs to another slide than {facts.name}. Choose the file of this run."
        )
    document = in_level0(document, path, frames_of(facts, frame), frame, error=CorrectionsError)
    found = list(_features(document, path))
    if not found:
        raise CorrectionsError(f"{path} holds no object with an outline.")
    boxes = np.array([feature.box for feature in found])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = int(((centre < 0) | (centre > [facts.width, facts.height])).any(axis=1).sum())
    if outside:
        raise CorrectionsError(
            f"{outside:,} of {len(found):,} objects of {path} lie outside {facts.name} "
            f"({facts.width} x {facts.height} px): it belongs to another slide, or its px are not those of this one."
        )
    return found


def _features(document: Any, path: Path) -> Iterator[_Feature]:
    entries = document.get("features", [document]) if isinstance(document, Mapping) else document
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("geometry"), Mapping):
            continue
        properties = entry.get("properties") or {}
        if not isinstance(properties, Mapping) or properties.get("objectType") in (
            "tile",
            "root",
            "tma_core",
        ):
            continue
        corners = np.array(list(_corners(entry["geometry"].get("coordinates"))), float).reshape(-1, 2)
        if not len(corners) or not np.isfinite(corners).all():
            continue
        low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        metadata = properties.get("metadata")
        review = metadata.get("review") if isinstance(metadata, Mapping) else None
        label = _label(properties.get("classification"))
        box: Box = (low[0], low[1], high[0], high[1])
        yield _Feature(_name(entry, box, label), label, box, entry["geometry"].get("type") == "Point", review)


def _corners(coordinates: Any) -> Iterator[tuple[float, float]]:
    """Every (x, y) of nested coordinates, without recursion: files come from anywhere."""
    waiting = [coordinates]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, list):
            continue
        if len(part) >= 2 and all(isinstance(n, int | float) for n in part[:2]):
            yield float(part[0]), float(part[1])
        else:
            waiting += part


def _label(classification: Any) -> str | None:
    """The class; QuPath writes a name, or names of a derived class."""
    if not isinstance(classification, Mapping):
        return None
    name = classification.get("name")
    names = classification.get("names")
    if isinstance(names, list) and names:
        name = ": ".join(str(each) for each in names)
    return str(name).strip()[:80] or None if name is not None else None


def _name(entry: Mapping[str, Any], box: Box, label: str | None) -> str:
    """The feature's UUID; one without gets the same each time it is read."""
    try:
        return str(uuid.UUID(str(entry.get("id"))))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([entry.get("id"), box, label])))


__all__ = ["Corrections", "CorrectionsError", "read_corrections"]
