"""Errors of runs and exports. Every message says what happened, where, and what to do next."""

import errno

from wsi.limits import file_too_large

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written: a full disk, a used-up quota, a file too large."""
    return getattr(error, "errno", None) in _FULL


def why_full(error: BaseException) -> str:
    """Why nothing more can be written, in words; of an error that `is_full`."""
    return file_too_large() if getattr(error, "errno", None) == errno.EFBIG else "The disk is full."


class WorkflowError(Exception):
    """Base of every error raised by `workflows`."""


class OptionsError(WorkflowError, ValueError):
    """Options of a run that do not fit together."""


class RunNotFoundError(WorkflowError, FileNotFoundError):
    """The folder holds no run."""


class RunMismatchError(WorkflowError):
    """The output folder holds another run: another request, slide, model or grid."""


class SlideMismatchError(WorkflowError):
    """The slide of a run is not to be found, or the one that was named has another content."""


class RunLockedError(WorkflowError):
    """Another process is writing to this run."""


class ForeignFolderError(WorkflowError):
    """The output folder holds files that are not ours; nothing is written among them."""


class FolderNotWritableError(WorkflowError, PermissionError):
    """The output folder cannot be made or written in."""


class StoreError(WorkflowError):
    """The journal of a run cannot be used as asked."""


class StoreCorruptError(StoreError):
    """The journal is damaged, or the file is not a journal of this program."""


class StoreVersionError(StoreError):
    """The journal was written by a version of this program that this one does not understand."""


class StoreFullError(StoreError, OSError):
    """The disk is full. Tiles stored so far stay, and the repeated command goes on from there."""


class ExportError(WorkflowError):
    """An export cannot be written."""


class ExportExistsError(ExportError, FileExistsError):
    """The file to export to exists already."""


class StudyError(WorkflowError, ValueError):
    """The configuration of a cohort cannot be read or contradicts itself."""


class CohortError(WorkflowError, ValueError):
    """The table, folder or pattern of a cohort cannot be used."""


class NarrativeError(WorkflowError):
    """A slide cannot be summarised in words."""


class SpatialError(WorkflowError, ValueError):
    """A section's counts, positions or genes cannot be used, or do not belong to the slide."""


class CellsError(WorkflowError, ValueError):
    """Cells cannot be measured, described or searched as asked."""


class JudgeError(WorkflowError, ValueError):
    """Answers cannot be read or judged as asked."""


class StackError(WorkflowError, ValueError):
    """A time-lapse or z-stack cannot be used as asked: its axis, times or budget."""
