"""Corrections made in QuPath, read back into a run's reviews.

`qwenvl export geojson` gives every object a UUID that is the same on any machine, and QuPath keeps it. What comes
back under a known UUID is compared with the object as it was exported and as it stands: another class is a relabelling,
another outline a reshaping. What carries a tile and item of ours under another UUID is found by place. What is in
neither was drawn. A file of another run brings what people decided there, and none of its model's objects. Everything
of one file is one step, so that one undo takes it back; a file read twice changes nothing the second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from workflows.review.corrected_file import CorrectedFile, CorrectionsError, Feature, one_name_each, read_file
from workflows.review.corrected_objects import KnownObjects
from workflows.review.decisions import Action, Box, Change, Ledger, Reviews, Verdict
from workflows.store.run_store import RunStore
from wsi.regions.frames import PixelFrame
from wsi.regions.qupath import class_name

_SAME_PX0 = 0.011
"""Exports write hundredths of a px."""
_VOUCHED = (Verdict.ACCEPTED.value, Verdict.EDITED.value)
_MOST_SAID = 3


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
    foreign: int = 0
    """Objects that the model of another run found, and nobody vouched for there: left out."""
    elsewhere: int = 0
    """Objects on another plane of the stack, left out."""
    lines: int = 0
    """Rulers and other lines, left out."""
    since: int = 0
    """Objects that the run found, or people decided about, after the file was exported: it cannot say anything about
    them."""
    refused: tuple[str, ...] = ()
    """Features that cannot be read, each with its place in the file and the reason."""

    def __str__(self) -> str:
        parts = {
            "relabelled": self.relabelled,
            "moved or resized": self.reshaped,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "drawn": self.added,
            "unchanged": self.same,
            "not in the file": self.missing,
            "newer than the file": self.since,
            "without a class, left out": self.unclassified,
            "on another plane, left out": self.elsewhere,
            "lines, left out": self.lines,
            "of another run's model, left out": self.foreign,
            "that cannot be read": len(self.refused),
        }
        said = ", ".join(f"{number:,} {name}" for name, number in parts.items() if number) or "nothing"
        return f"{said} ({'; '.join(self.refused[:_MOST_SAID])})" if self.refused else said


def read_corrections(
    run: Path | str,
    path: Path | str,
    *,
    who: str | None = None,
    reject_missing: bool | Callable[[int], bool] = False,
    frame: PixelFrame | str | None = None,
    write: bool = True,
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
    reject_missing : bool or function
        Objects that are not in the file were deleted there: reject them. Leave it out for a file that holds a part.
        Objects that the run found after the export are not rejected. A function is asked with their number, where
        there are any that may be rejected.
    frame : 'qupath' or 'level0', optional
        Frame of the coordinates. The export records it, and QuPath drops the record when it writes the file anew: it is
        needed then where QuPath crops the slide.
    write : bool
        False only says what would change.

    Raises
    ------
    CorrectionsError
        The file cannot be read, holds no objects, or belongs to another slide; or `reject_missing` is asked for with a
        file of another run.
    FrameNeededError, FrameError
        It is not known in which px the coordinates are, or the file was made for another slide.
    RunNotFoundError, StoreError
    """
    path = Path(path)
    with RunStore.open(run) as store, Reviews.open(run, who) as reviews:
        file = read_file(path, store, frame)
        reading = _Reading(file, KnownObjects(store, file.answers), reviews.ledger)
        if reject_missing is True and reading.foreign:
            raise CorrectionsError(
                f"{path} comes from another run: what is not in it was not deleted there. Read it without rejecting "
                "what is missing, or read it into the run that wrote it."
            )
        changes, counts = reading.changes()
        absent, since = reading.absent(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        counts["missing"], counts["since"] = len(absent), since
        if callable(reject_missing):
            reject_missing = bool(absent) and not reading.foreign and reject_missing(len(absent))
        if reject_missing:
            counts["rejected"] += len(absent)
            changes += [_with(change, Action.REJECT, Verdict.REJECTED) for change in absent]
        if changes and write:
            reviews.decide(changes, note=f"from {path.name}")
    return Corrections(**counts, lines=file.lines, refused=file.refused)


class _Reading:
    """One file against the objects of a run."""

    def __init__(self, file: CorrectedFile, known: KnownObjects, ledger: Ledger) -> None:
        self._known, self._ledger = known, ledger
        places = {name: change.box for name, change in known.by_name.items()}
        self._features = one_name_each(file.features, places)
        self._seen: set[str] = set(file.present)
        self.foreign = self._is_foreign(file)

    def _is_foreign(self, file: CorrectedFile) -> bool:
        """Whether the objects are another run's: by the file's head, else by their names, else by what lies there."""
        if file.run is not None:
            return file.run != str(self._known.run_id)
        keyed = {each: self._known.name_of(each.key) for each in self._features if each.key is not None}
        if not keyed or any(each.name == name for each, name in keyed.items()):
            return False
        alike = 0
        for each, name in keyed.items():
            stored = self._known.exported.get(name)
            alike += stored is not None and _moved(each.box, stored[1]) <= _SAME_PX0 and _alike(each.label, stored[0])
        return 2 * alike <= len(keyed)

    def _is_ours(self, name: str) -> bool:
        return name in self._known.by_name or name in self._known.stored

    def changes(self) -> tuple[list[Change], Counter[str]]:
        """What is to be decided, and how often what was met."""
        counts: Counter[str] = Counter()
        made: list[Change] = []
        by_place = self._by_place()
        for feature in self._features:
            name = by_place.get(feature.name, feature.name)
            self._seen.add(name)
            now = self._known.by_name.get(name)
            if not feature.here and feature.name not in self._known.by_name:
                change, kind = None, "elsewhere"
            elif now is not None and self.foreign and name != feature.name:
                change, kind = _vouched(feature, now)
            elif now is not None:
                change, kind = self._corrected(feature, now, name)
            else:
                change, kind = self._unknown(feature)
            counts[kind] += 1
            if change is not None:
                made.append(change)
        return made, counts

    def _by_place(self) -> dict[str, str]:
        """Objects of features that carry our keys under a UUID that is not ours, by name of the feature."""
        known, found = self._known, {}
        taken = {each.name for each in self._features if each.name in known.by_name}
        waiting = []
        for each in self._features:
            if each.key is None or each.name in known.by_name or self._ledger.history(each.name):
                continue
            if self._is_ours(each.name):
                continue  # merged into another object since
            own = known.name_of(each.key)
            now = known.by_name.get(own)
            if now is not None and own not in taken and known.agreement(each, now.box) >= 0.5:
                found[each.name] = own
                taken.add(own)
            else:
                waiting.append(each)
        return found | known.by_place(waiting, taken)

    def _corrected(self, feature: Feature, now: Change, name: str) -> tuple[Change | None, str]:
        label = now.label if not feature.label or _alike(feature.label, now.label) else feature.label
        box = feature.box if _moved(feature.box, now.box) > _SAME_PX0 else now.box
        if (label, box) != (now.label, now.box) and (then := self._known.exported.get(name)) is not None:
            # What the file states as it was exported is no correction, whatever became of the object since.
            if _alike(feature.label, then[0]) and feature.review != Verdict.EDITED:
                label = now.label
            if _moved(feature.box, then[1]) <= _SAME_PX0:
                box = now.box
        if label != now.label:
            return _with(now, Action.RELABEL, Verdict.EDITED, label, box), "relabelled"
        if box != now.box:
            return _with(now, Action.RESHAPE, Verdict.EDITED, label, box), "reshaped"
        if now.verdict is Verdict.UNREVIEWED and feature.review == Verdict.ACCEPTED:
            return _with(now, Action.ACCEPT, Verdict.ACCEPTED), "accepted"
        return None, "same"

    def _unknown(self, feature: Feature) -> tuple[Change | None, str]:
        """A feature that lies on no object of the run as it stands."""
        if self._ledger.history(feature.name):
            return None, "same"  # rejected or undone here since: the file is older than that
        stored = None if feature.key is None and not feature.named else self._known.stored.get(feature.name)
        if stored is not None:
            # An object of the model that was merged into another one since: a decision follows it by what was seen.
            (tile, item), label, box = stored
            if not feature.label or _alike(feature.label, label):
                return None, "same"
            return Change(
                Action.RELABEL, feature.name, Verdict.EDITED, feature.label, box, feature.point, tile, item, label, box
            ), "relabelled"
        if self.foreign and feature.key is not None and feature.review not in _VOUCHED:
            return None, "foreign"
        if not feature.label:
            return None, "unclassified"
        again = None if feature.named else self._drawn_at(feature)
        if again is not None:
            self._seen.add(again.object)
            return self._corrected(feature, again, again.object)
        return Change(Action.ADD, feature.name, Verdict.EDITED, feature.label, feature.box, feature.point), "added"

    def _drawn_at(self, feature: Feature) -> Change | None:
        """The object drawn at exactly this place before, for a file that gives its features no names."""
        name = self._drawn.get(_rounded(feature.box))
        return None if name is None or name in self._seen else self._known.by_name[name]

    @cached_property
    def _drawn(self) -> dict[Box, str]:
        names = {each.name for each in self._features}
        return {
            _rounded(change.box): name
            for name, change in self._known.by_name.items()
            if change.tile is None and name not in names
        }

    def absent(self, written: datetime) -> tuple[list[Change], int]:
        """Objects that are not in the file, and how many are newer than it. Call it after `changes`."""
        newer = self._known.found_since()
        absent, since = [], 0
        for name, change in self._known.by_name.items():
            if name in self._seen or change.object in self._seen:
                continue
            decided = self._ledger.of(change.object)
            if name in newer or (decided is not None and datetime.fromisoformat(decided.time) > written):
                since += 1
            else:
                absent.append(change)
        return absent, since


def _vouched(feature: Feature, now: Change) -> tuple[Change | None, str]:
    """What people decided in another run about an object that lies here too; its model's own opinion is none."""
    same = not feature.label or _alike(feature.label, now.label)
    if feature.review not in _VOUCHED:
        return None, "same" if same else "foreign"
    if not same:
        return _with(now, Action.RELABEL, Verdict.EDITED, feature.label), "relabelled"
    if now.verdict is Verdict.UNREVIEWED:
        return _with(now, Action.ACCEPT, Verdict.ACCEPTED), "accepted"
    return None, "same"


def _alike(one: str, other: str) -> bool:
    """Whether two classes are one after QuPath's own split."""
    return one == other or class_name(one) == class_name(other)


def _rounded(box: Box) -> Box:
    x0, y0, x1, y1 = (round(edge, 2) for edge in box)
    return (x0, y0, x1, y1)


def _moved(one: Box, other: Box) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _with(change: Change, action: Action, verdict: Verdict, label: str | None = None, box: Box | None = None) -> Change:
    return replace(change, action=action, verdict=verdict, label=label or change.label, box=box or change.box)


__all__ = ["Corrections", "CorrectionsError", "read_corrections"]
