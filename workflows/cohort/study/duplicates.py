"""Rows of a cohort that show the same px: a copy, a link, another file of the same slide. One of them is run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi.errors import SlideError
from wsi.files.fingerprint import fingerprint_path
from wsi.tissue import METHODS

if TYPE_CHECKING:
    from workflows.cohort.study.check import Checked


def refuse_duplicates(
    checked: Sequence[Checked], mask_of: Callable[[Checked], str], pool: ThreadPoolExecutor
) -> list[Checked]:
    """Give all but one row of the same px a problem, so that no slide is counted twice.

    Rows are the same where their slides have the same fingerprint, or share their largest file. Only rows of
    equal size are compared. The row that is run is the one that is furthest, else the first; where rows of the
    same px state different groups or scales none is run, for which is right cannot be known. Rows with mask files
    of their own are different regions of one slide, and all of them are run.

    Parameters
    ----------
    checked : sequence of Checked
    mask_of : callable
        The mask of a row: a method of `wsi.tissue`, or the path of a file.
    pool : ThreadPoolExecutor
        Fingerprints are made in it.
    """
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, each in enumerate(checked):
        if each.problem is None and (each.files or each.known):
            alike[each.size, _bytes(_largest(each)) if each.files else -1].append(place)
    compared = [place for places in alike.values() if len(places) > 1 for place in places]
    keys = dict(zip(compared, pool.map(lambda place: _keys(checked[place]), compared), strict=True))
    result = list(checked)
    for places in _connected(keys):
        for mask, same in _by_mask(places, lambda place: mask_of(checked[place])).items():
            if len(same) > 1:
                _refuse(result, same, mask)
    return result


def _keys(checked: Checked) -> frozenset[str]:
    try:
        own = [fingerprint_path(_largest(checked))] if checked.several else []
        return frozenset([checked.fingerprint(), *own])
    except (SlideError, OSError):
        return frozenset()  # what cannot be read now is said when it is run


def _largest(checked: Checked) -> Path:
    """The file that holds most of the px: the small ones of different slides may be the same."""
    return max(checked.files, key=_bytes)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _connected(keys: dict[int, frozenset[str]]) -> list[list[int]]:
    """Places that share a key with each other."""
    groups: list[tuple[set[str], list[int]]] = []
    for place, own in keys.items():
        sharing = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        merged = set(own).union(*(found for found, _ in sharing))
        groups.append((merged, sorted([place, *(one for _, places in sharing for one in places)])))
    return [places for _, places in groups if len(places) > 1]


def _by_mask(places: Iterable[int], mask_of: Callable[[int], str]) -> dict[str, list[int]]:
    """Rows with mask files of their own apart; a method takes all tissue, and is one with every mask."""
    masks = {place: mask_of(place) for place in places}
    if any(mask in METHODS for mask in masks.values()):
        return {"": list(masks)}
    grouped: dict[str, list[int]] = defaultdict(list)
    for place, mask in masks.items():
        grouped[mask].append(place)
    return dict(grouped)


def _refuse(result: list[Checked], same: Sequence[int], mask: str) -> None:
    rows = {place: result[place].row for place in same}
    for name in ("group", "mpp"):
        stated = {getattr(row, name) for row in rows.values()} - {"", None}
        if len(stated) > 1:
            numbers = ", ".join(str(row.number) for row in rows.values())
            words = " and ".join(sorted(map(str, stated)))
            for place in same:
                result[place] = replace(
                    result[place],
                    problem=f"rows {numbers} are the same px and state {name} {words}; none is run. "
                    "Leave the right one",
                )
            return
    kept = min(same, key=lambda place: (not result[place].finished, result[place].state is None, place))
    for place in same:
        if place != kept:
            how = _how(result[place], result[kept])
            result[place] = replace(
                result[place],
                problem=f"shows the same px as row {rows[kept].number} ({rows[kept].id}): {how}. It is counted once; "
                "take one of the rows out, or give both a mask file of their own",
            )


def _how(copy: Checked, kept: Checked) -> str:
    if not copy.files or not kept.files:
        return "it is the same address" if copy.row.slide == kept.row.slide else "it is a copy"
    one, other = _largest(copy), _largest(kept)
    if os.path.samefile(one, other):
        given, first = Path(copy.row.slide), Path(kept.row.slide)
        if given == first:
            return "it is the same file"
        if given.is_symlink() or first.is_symlink():
            return "it is a symbolic link to it"
        return "it is the same file under another name" if len(copy.files) == 1 else "it is a file of the same slide"
    return "it is a copy"
