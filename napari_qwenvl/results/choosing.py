"""Which objects: those of a place, and the one to look at next. No Qt here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from workflows.review.reviewed import State

Rows = NDArray[np.int64]


def rows_inside(overlay: Overlay, rect0: Sequence[float], labels: Iterable[str] | None = None) -> Rows:
    """Rows of objects whose centre lies in a rectangle of level-0 px, of some labels only where they are given."""
    objects: Objects = overlay.objects
    x, y = (objects.box[:, 0] + objects.box[:, 2]) / 2, (objects.box[:, 1] + objects.box[:, 3]) / 2
    inside = (x >= rect0[0]) & (x <= rect0[2]) & (y >= rect0[1]) & (y <= rect0[3])
    if labels is not None:
        wanted = set(labels)
        inside &= np.isin(objects.label, [code for code, each in enumerate(overlay.labels) if each in wanted])
    return np.flatnonzero(inside)


def next_row(overlay: Overlay, order: Rows | None = None, *, uncertain: bool = False, back: bool = False) -> int | None:
    """The unreviewed object to look at next; None where all are reviewed.

    Parameters
    ----------
    order : int64 (n,), optional
        Rows that count, in the order a reviewer sees them; by default those that pass the filters.
    uncertain : bool
        The one whose score is nearest to undecided (0.5) instead; objects without a score come last.
    back : bool
        The one before the selected object, not the one after it.
    """
    rows = overlay.visible() if order is None else order
    open_rows = rows[overlay.objects.state[rows] == State.UNREVIEWED]
    if not len(open_rows):
        return None
    at = overlay.selected
    if uncertain:
        others = open_rows[open_rows != at] if at is not None and len(open_rows) > 1 else open_rows
        distance = np.abs(overlay.objects.score[others] - 0.5)
        return int(others[np.argmin(np.where(np.isnan(distance), np.inf, distance))])
    place = np.full(len(overlay), -1)
    place[rows] = np.arange(len(rows))
    here = -1 if at is None else int(place[at])
    if here < 0:
        return int(open_rows[-1 if back else 0])
    beyond = open_rows[place[open_rows] < here] if back else open_rows[place[open_rows] > here]
    if back:
        return int(beyond[-1] if len(beyond) else open_rows[-1])
    return int(beyond[0] if len(beyond) else open_rows[0])
