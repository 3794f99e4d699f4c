"""The table of a batch: how far every slide is, read from the journals each time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workflows.cohort.folder import BatchFolder, Failure
from workflows.cohort.state import RunState, read_state
from workflows.cohort.study.plan import CohortPlan
from workflows.cohort.study.table import CohortRow
from workflows.errors import StoreError

Stage = Literal["complete", "open", "failed tiles", "failed", "refused", "not begun", "other run", "unreadable"]


@dataclass(frozen=True, slots=True)
class SlideStatus:
    """How far one slide is.

    Attributes
    ----------
    stage : str
        'complete': every tile has an answer and the report is written. 'open': begun, or only the report is
        missing. 'failed tiles': asked to the end, some failed. 'failed': the last attempt ended with `reason`.
        'refused': something is wrong with the row. 'other run': the folder holds the run of another request.
    reason : str
        Why, where it is not complete.
    tiles, done, failed_tiles, objects : int
        From the journal.
    """

    row: CohortRow
    stage: Stage
    reason: str = ""
    tiles: int = 0
    done: int = 0
    failed_tiles: int = 0
    objects: int = 0


def cohort_status(out: Path | str) -> tuple[CohortPlan, list[SlideStatus]]:
    """The plan of a batch and the status of every row, in their order.

    Raises
    ------
    RunNotFoundError
        The folder holds no batch.
    """
    folder = BatchFolder(Path(out).absolute())
    plan = CohortPlan.read(folder)
    return plan, [slide_status(plan, row, folder) for row in plan.rows]


def slide_status(plan: CohortPlan, row: CohortRow, folder: BatchFolder) -> SlideStatus:
    """The status of one row."""
    if problem := plan.problem(row):
        return SlideStatus(row, "refused", problem)
    try:
        state = read_state(folder, row.id)
    except StoreError as error:
        return SlideStatus(row, "unreadable", str(error))
    failure = Failure.read(folder.failure(row.id))
    why = failure.reason if failure else ""
    if state is None:
        return SlideStatus(row, "failed" if why else "not begun", why)
    numbers = (state.tiles, state.done, state.failed, state.objects)
    if differing := _other_request(state, plan):
        return SlideStatus(row, "other run", f"{differing} differs from what was asked last", *numbers)
    if state.complete:
        return SlideStatus(row, "complete", "", *numbers)
    if state.failed and state.done + state.failed == state.tiles:
        return SlideStatus(row, "failed tiles", why or f"{state.failed} tiles failed", *numbers)
    return SlideStatus(row, "failed" if why else "open", why, *numbers)


def _other_request(state: RunState, plan: CohortPlan) -> str:
    found = state.manifest
    pairs = {
        "request": (found.request_hash, plan.request.hash),
        "model": (found.model.fingerprint, plan.model.fingerprint),
    }
    return ", ".join(key for key, (here, asked) in pairs.items() if here != asked)
