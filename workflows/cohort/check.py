"""Looking at every slide of a cohort before the first tile is asked: what cannot work is said at once, all of it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from workflows._opening import find_mask, open_path
from workflows.cohort.folder import BatchFolder
from workflows.cohort.plan import Plan
from workflows.cohort.state import RunState, needs_nothing, read_state, why_other
from workflows.cohort.table import Finding, Row
from workflows.errors import StoreError
from wsi.errors import SlideError
from wsi.slide import Slide
from wsi.tissue import METHODS

_THREADS = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """One row after a look at its slide.

    Attributes
    ----------
    row : Row
        `mpp` is what the slide is to be opened with.
    problem : str or None
        Why it is not run.
    state : RunState or None
        Of the run found in its folder.
    finished : bool
        Nothing is left to do.
    stale : bool
        The folder holds another run, which is to be set aside.
    bytes : int
        Size of the slide's file.
    """

    row: Row
    problem: str | None = None
    state: RunState | None = None
    finished: bool = False
    stale: bool = False
    bytes: int = 0

    @property
    def finding(self) -> Finding | None:
        """The problem as it is listed."""
        return None if self.problem is None else Finding(self.row.number, self.row.id, self.problem)


def check_rows(
    plan: Plan,
    folder: BatchFolder,
    *,
    overwrite: bool = False,
    cancel: threading.Event | None = None,
) -> list[Checked]:
    """Check every row, in their order; rows with a finding already keep it. Once `cancel` is set none is looked at."""

    def look(row: Row) -> Checked:
        known = plan.problem(row)
        if known or (cancel is not None and cancel.is_set()):
            return Checked(row, known)
        return _check(plan, row, folder, overwrite)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        return list(pool.map(look, plan.rows))


def open_row(plan: Plan, row: Row) -> Slide:
    """Open the slide of a row, with the study's mpp where the slide states none.

    Raises
    ------
    SlideError
    """
    options = {key: value for key, value in plan.slide_options.items() if value is not None}
    slide = open_path(Path(row.slide), row.mpp, options)
    if slide.mpp is None and row.mpp is None and plan.study.slides.mpp is not None:
        slide.close()
        slide = open_path(Path(row.slide), plan.study.slides.mpp, options)
    return slide


def _check(plan: Plan, row: Row, folder: BatchFolder, overwrite: bool) -> Checked:
    path = Path(row.slide)
    mask = plan.mask(row)
    try:
        if not path.exists():
            return Checked(row, f"{path} does not exist")
        with open_row(plan, row) as slide:
            if slide.mpp is None and plan.request.mpp is not None:
                return Checked(
                    row, f"{path.name} does not state its pixel size; give it in the column mpp (um per px)"
                )
            if mask not in METHODS:
                find_mask(mask, slide, plan.frame(row))
            state = read_state(folder, row.id)
            size = path.stat().st_size if path.is_file() else 0
            given = slide.mpp if slide.mpp_source == "user" else None
            checked = Checked(replace(row, mpp=given), state=state, bytes=size)
            if state is None:
                return checked
            if (differing := why_other(state, plan, slide)) is not None:
                if overwrite:
                    return replace(checked, stale=True)
                return Checked(
                    row, f"{folder.run(row.id)} holds another run ({differing} differs); name another folder with -o, "
                    "or set it aside with --overwrite", state,
                )  # fmt: skip
            return replace(checked, finished=needs_nothing(state, plan, row, slide, folder))
    except StoreError as error:
        return replace(Checked(row), stale=True) if overwrite else Checked(row, str(error))
    except (SlideError, OSError) as error:
        return Checked(row, str(error))
