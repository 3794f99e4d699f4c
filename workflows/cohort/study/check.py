"""Looking at every slide of a cohort before the first tile is asked: what cannot work is said at once, all of it."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from workflows.cohort.folder import BatchFolder
from workflows.cohort.state import RunState, needs_nothing, read_state, why_other
from workflows.cohort.study.duplicates import refuse_duplicates
from workflows.cohort.study.plan import CohortPlan
from workflows.cohort.study.table import CohortRow, RowFinding
from workflows.errors import StoreError
from workflows.inputs.needed import require_all
from workflows.inputs.opening import find_mask, open_path
from wsi.errors import PlaneError, SlideError
from wsi.files.address import may_exist
from wsi.files.fingerprint import fingerprint_files
from wsi.files.names import path_of, path_text
from wsi.limits import raise_limit
from wsi.slide import Slide
from wsi.threads import thread_pool
from wsi.tissue import METHODS

_THREADS = 8
_DRIVE = re.compile(r"(^|/)[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Checked:
    """One row after a look at its slide.

    Attributes
    ----------
    row : CohortRow
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
        Size of the slide's files.
    size : (int, int)
        Width and height of the slide in level-0 px.
    files : tuple of Path
        Every file of the slide; empty where it was not opened.
    identity : str
        What else its fingerprint covers.
    several : bool
        Its px may be in more files than are here: a DICOM series, or a set of files.
    known : str
        Its fingerprint where that is not made of `files`: of a slide at an address.
    """

    row: CohortRow
    problem: str | None = None
    state: RunState | None = None
    finished: bool = False
    stale: bool = False
    bytes: int = 0
    size: tuple[int, int] = (0, 0)
    files: tuple[Path, ...] = ()
    identity: str = ""
    several: bool = False
    known: str = ""

    def fingerprint(self) -> str:
        """The fingerprint of the slide that was looked at. Raises OSError."""
        return self.known or fingerprint_files(self.files, self.identity)

    @property
    def finding(self) -> RowFinding | None:
        """The problem as it is listed."""
        return None if self.problem is None else RowFinding(self.row.number, self.row.id, self.problem)


def check_rows(
    plan: CohortPlan, folder: BatchFolder, *, overwrite: bool = False, cancel: threading.Event | None = None
) -> list[Checked]:
    """Check every row, in their order; rows with a finding already keep it. Once `cancel` is set none is looked at.

    Of rows that show the same px one is left without a problem; see `refuse_duplicates`.
    """

    def look(row: CohortRow) -> Checked:
        known = plan.problem(row)
        if known or (cancel is not None and cancel.is_set()):
            return Checked(row, known)
        return _check(plan, row, folder, overwrite)

    with thread_pool(_THREADS, "check") as pool:
        checked = list(pool.map(look, plan.rows))
        return refuse_duplicates(checked, lambda each: plan.mask(each.row), pool)


def open_row(plan: CohortPlan, row: CohortRow) -> Slide:
    """Open the slide of a row, with the study's mpp where the slide states none.

    Raises
    ------
    SlideError
    """
    options = {key: value for key, value in plan.slide_options.items() if value is not None}
    path = path_of(row.slide)
    slide = open_path(path, row.mpp, options)
    if slide.mpp is None and row.mpp is None and plan.study.slides.mpp is not None:
        slide.close()
        slide = open_path(path, plan.study.slides.mpp, options)
    return slide


def _all_missing(plan: CohortPlan, row: CohortRow, error: PlaneError) -> str:
    """What a slide that did not open for want of a choice misses, its scale included."""
    try:
        require_all(
            path_of(row.slide),
            mpp=row.mpp or plan.study.slides.mpp,
            options=plan.slide_options,
            request=plan.request,
            mask=plan.mask(row),
            frame=plan.frame(row),
        )
    except SlideError as found:
        return str(found)
    return str(error)


def _check(plan: CohortPlan, row: CohortRow, folder: BatchFolder, overwrite: bool) -> Checked:
    path = path_of(row.slide)
    mask = plan.mask(row)
    try:
        if not may_exist(path):
            windows = ", which is a path of Windows" if _DRIVE.search(row.slide) else ""
            return Checked(row, f"{row.slide} does not exist{windows}")
        with open_row(plan, row) as slide:
            if slide.mpp is None and plan.request.mpp is not None:
                return Checked(row, f"{path.name} does not state its pixel size; give it in the column mpp (um per px)")
            if mask not in METHODS:
                find_mask(mask, slide, plan.frame(row))
            state = read_state(folder, row.id)
            given = slide.mpp if slide.mpp_source == "user" else None
            stated = getattr(slide, "description", None)
            files = stated.files if stated is not None else (path,)
            size = sum(file.stat().st_size for file in files if file.is_file())
            checked = Checked(
                replace(row, mpp=given),
                state=state,
                bytes=size,
                size=(slide.width, slide.height),
                files=files,
                identity=stated.identity if stated is not None else "",
                several=len(files) > 1 or slide.properties.get("openslide.vendor") == "dicom",
                known="" if files else slide.fingerprint,
            )
            if state is None:
                return checked
            if (differing := why_other(state, plan, slide)) is not None:
                if overwrite:
                    return replace(checked, stale=True)
                return Checked(
                    row,
                    f"{folder.run(row.id)} holds another run ({differing} differs); name another folder with -o, "
                    "or set it aside with --overwrite",
                    state,
                )
            return replace(checked, finished=needs_nothing(state, plan, row, slide, folder))
    except StoreError as error:
        raise_limit(error)
        return replace(Checked(row), stale=True) if overwrite else Checked(row, str(error))
    except PlaneError as error:
        raise_limit(error)
        return Checked(row, path_text(_all_missing(plan, row, error)))
    except (SlideError, OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise_limit(error)
        return Checked(row, path_text(str(error)))
