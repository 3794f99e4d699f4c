"""The run folder: who may write there, what is ours in it, and how an old run is set aside."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from workflows.errors import (
    FolderNotWritableError,
    ForeignFolderError,
    RunLockedError,
    RunMismatchError,
    RunNotFoundError,
)
from wsi.cleanup import clean_up

JOURNAL = "run.sqlite"
LOCK = "run.lock"
"""Lock inside a run folder, where it cannot lie beside it; runs of earlier versions hold one too."""
REPORT = "report.json"
HEATMAP = "heatmap.zarr"
OVERVIEW = "overview.png"
MASK = "mask.png"

WHERE = "where"
"""Folder of the run of coarse tiles inside the folder of a run; see `workflows.run.plan.cascade`."""

_SQLITE = {JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", f"{JOURNAL}-journal"}
_OURS = _SQLITE | {LOCK, REPORT, HEATMAP, OVERVIEW, MASK, WHERE, f".{WHERE}.lock"}
_EARLIER = {"answers.jsonl": "sheet.yaml", "judgements.jsonl": "manifest.json"}
"""Journals of runs that versions before 0.1 made, with the file beside each that tells them from a user's own."""
PARTIAL = ".partial"
"""Suffix of files that are being written; they take their final name when they are whole."""


def journal_of(folder: Path) -> Path:
    """The journal of a run folder; RunNotFoundError where there is none."""
    journal = folder / JOURNAL
    if not journal.is_file():
        raise RunNotFoundError(
            f"{folder} holds no run ({JOURNAL} is missing). Name the folder that was given to -o, "
            "or start a run there first."
        )
    return journal


@dataclass
class Claim:
    """The right to write in a folder, held until `release`.

    Attributes
    ----------
    folder : Path
    fresh : bool
        True where the folder holds no run yet.
    backup : Path, or None
        Where an older run was moved to.
    """

    folder: Path
    lock: FileLock
    fresh: bool
    backup: Path | None = None
    _made: list[Path] = field(default_factory=list)

    def release(self) -> None:
        """Let others write."""
        self.lock.release()

    def undo(self) -> None:
        """Take back everything the claim made, as if the run had never been started, and release it."""
        clean_up(None, self._take_back, self.lock.release)

    def _take_back(self) -> None:
        for name in (_OURS | {name + PARTIAL for name in _OURS}) - {WHERE}:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.backup is not None:
            _remove_empty([self.folder])
            if not self.folder.exists():
                self.backup.rename(self.folder)
        Path(self.lock.lock_file).unlink(missing_ok=True)
        _remove_empty(self._made)


def claim(folder: Path, *, overwrite: bool = False) -> Claim:
    """Lock a folder for writing a run into it, making it where it does not exist.

    With `overwrite` a run found there is renamed to `<name>.bak-1` (or the next free number), never deleted:
    removing it is left to its owner.

    Raises
    ------
    ForeignFolderError
        The folder holds files that are not of a run.
    RunLockedError
        Another process holds it.
    """
    refuse_foreign(folder)
    made = _make(folder.parent)
    try:
        made = _make(folder) + made if lock_path(folder).parent == folder else made
        lock = _acquire(folder)
    except BaseException as error:
        clean_up(error, partial(_remove_empty, made))
        raise
    try:
        made = _make(folder) + made
        return _take(folder, lock, made, overwrite=overwrite)
    except BaseException as error:
        clean_up(error, lock.release)
        raise


def _take(folder: Path, lock: FileLock, made: list[Path], *, overwrite: bool) -> Claim:
    refuse_foreign(folder)  # another process may have written there before the lock was ours
    earlier = _earlier_journal(folder)
    holds_run = (folder / JOURNAL).exists() or earlier is not None
    if earlier is not None and not overwrite:
        raise RunMismatchError(
            f"{folder} holds a run of an earlier version ({earlier}), which does not go on. Its reports can still be "
            "read. Name another folder with -o, or set it aside with --overwrite."
        )
    if not (overwrite and holds_run):
        return Claim(folder, lock, fresh=not holds_run, _made=made)
    if lock_path(folder).parent == folder:
        raise FolderNotWritableError(
            f"{folder} cannot be set aside: the folder around it cannot be written in. Name another one with -o."
        )
    backup = free_name(folder)
    folder.rename(backup)
    folder.mkdir()
    return Claim(folder, lock, fresh=True, backup=backup)


def lock_path(folder: Path) -> Path:
    """The lock of a run folder: beside it, so that it stays where it is when the folder is renamed.

    Inside it where the folder around cannot be written in; such a run folder is never renamed.
    """
    whole = Path(os.path.abspath(folder))
    if os.access(whole.parent, os.W_OK):
        return whole.with_name(f".{whole.name}.lock")
    return folder / LOCK


def refuse_foreign(folder: Path) -> None:
    """Raise ForeignFolderError where writing a run would put it among files that are not ours."""
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise ForeignFolderError(f"{folder} is a file, and a run needs a folder. Name another one with -o.")
        if (folder / JOURNAL).exists() or _earlier_journal(folder) is not None:
            return
        foreign = sorted(p.name for p in folder.iterdir() if p.name.removesuffix(PARTIAL) not in _OURS)
    except (FileNotFoundError, NotADirectoryError):  # it is not there, or its holder is just setting it aside
        return
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise ForeignFolderError(
            f"{folder} holds no run, but other files: {shown}. Name an empty or new folder with -o."
        )


def _earlier_journal(folder: Path) -> str | None:
    """The journal of a run that an earlier version made; None where there is none, or one of this version."""
    if (folder / JOURNAL).exists():
        return None
    return next((n for n, beside in _EARLIER.items() if (folder / n).is_file() and (folder / beside).is_file()), None)


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; on failure `path` is as it was."""
    replace_all_whole({path: write})


def replace_all_whole(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """The same for files that belong together: all are written before the first takes its place."""
    written = {path: path.with_name(path.name + PARTIAL) for path in writers}
    try:
        for path, write in writers.items():
            write(written[path])
        for path, whole in written.items():
            whole.replace(path)
    except BaseException as error:
        clean_up(error, *(partial(each.unlink, missing_ok=True) for each in written.values()))
        raise


def _make(folder: Path) -> list[Path]:
    """Make the folder and its parents; the ones that were made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    base = missing[-1].parent if missing else folder
    if not base.is_dir():
        raise FolderNotWritableError(f"{folder} cannot be made: {base} is a file. Name another folder with -o.")
    made: list[Path] = []
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            _remove_empty(made[::-1])
            raise FolderNotWritableError(
                f"{path} cannot be made ({error.strerror}). Name another folder with -o."
            ) from error
        made.append(path)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that are empty; one that another process has written into meanwhile stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(lock_path(folder), thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLockedError(
            f"Another process is writing to {folder}. Wait until it is done, stop it, or name another folder "
            "with -o. Reading the run (report, export, viewer) is possible meanwhile."
        ) from error
    except OSError as error:
        raise FolderNotWritableError(
            f"{folder} cannot be written in ({error.strerror}). Name another folder with -o."
        ) from error
    return lock


def free_name(folder: Path) -> Path:
    """Name beside a folder under which it can be set aside."""
    number = 1
    while (backup := folder.with_name(f"{folder.name}.bak-{number}")).exists():
        number += 1
    return backup
