"""Whether what is read is still what was opened: files watched on the way, their content compared at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsi.errors import SlideChangedError, SlideError
from wsi.files.fingerprint import fingerprint_path, walk_linked

MOST_FILES = 8192
"""Files that one check looks at. In a larger folder the next check goes on where this one ended."""

_State = tuple[int, int, int, int]
"""Size in bytes, time of writing and of the last change of any kind in ns, number of the file on its disk."""


class FileWatch:
    """The files of a slide, a document or a photograph, as they were when the fingerprint was taken.

    `check` compares size, times and number of every file (about 2 us each), and takes the fingerprint again only where
    one of them differs: a file that was touched, copied over itself or renamed to and fro goes on. `confirm` takes
    the fingerprint whatever the files look like.

    - One file, or several (DICOM, MRXS, sets of OME-TIFF): all of them, in every check.
    - A folder (OME-Zarr): every file and folder in it, so that a chunk that is added or missing counts. Of more than
      `MOST_FILES` a check looks at so many in turn, and `confirm` at all.
    - An address: nothing in a check, since what a server says of age and version differs from server to server.
      `confirm` opens the address anew and fetches the fingerprint.

    The fingerprint of a large file is made of samples: a rewriting that leaves size and samples as they were is taken
    for a touch. So is a file that is another one for a moment between two checks, and then the same again.

    Parameters
    ----------
    path : Path
        What messages call it.
    files : sequence of Path
        Files, or one folder; none for what does not lie on a disk.
    take : callable
        Takes the fingerprint. Raises OSError or SlideError.
    again : callable, optional
        Takes it anew, where `take` may answer from memory.

    Attributes
    ----------
    fingerprint : str
        As it was taken at the beginning; '' where there is nothing to watch.
    """

    def __init__(
        self, path: Path, files: Sequence[Path], take: Callable[[], str], again: Callable[[], str] | None = None
    ) -> None:
        self.path, self._files, self._again = path, tuple(files), again or take
        self._next = 0
        self._states = _states_of(self._files)  # before the fingerprint, so that no change falls between the two
        self.fingerprint = take()

    @classmethod
    def of(cls, path: Path) -> FileWatch:
        """The watch over one file or folder by `fingerprint_path`. Raises OSError."""
        return cls(path, (path,), lambda: fingerprint_path(path))

    @classmethod
    def nothing(cls, path: Path) -> FileWatch:
        """A watch over nothing, for images that were made in memory."""
        return cls(path, (), lambda: "")

    def check(self, kept: Callable[[], str] = str) -> None:
        """See that nothing was rewritten; call it after reading and before what was read is stored.

        A single file that is gone is no change: who holds it open reads on, and all others fail by name.

        Parameters
        ----------
        kept : callable
            Gives a sentence for the message about what is stored already.

        Raises
        ------
        SlideChangedError
            The content is another.
        """
        if what := self._difference():
            self._compare(what, kept, seen=self._sees_all)

    def confirm(self, kept: Callable[[], str] = str) -> bool:
        """See that the content is what it was; call it before a result is written that names the fingerprint.

        Returns
        -------
        bool
            False where the content cannot be read any more, so that nothing is known.

        Raises
        ------
        SlideChangedError
            The content is another. `doubtful` where no check could have seen it.
        """
        if not self.fingerprint:
            return True
        what = self._difference(all_files=True)
        return self._compare(what or "its content is another", kept, seen=bool(what) and self._sees_all)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """While the block reads: `check` at its end, also where it failed, so that a rewritten file is what is said.

        Raises
        ------
        SlideChangedError
        """
        try:
            yield
        except SlideChangedError:
            raise
        except Exception:
            self.check()
            raise
        self.check()

    @contextmanager
    def held(self) -> Iterator[None]:
        """`guarded`, and `confirm` where the block ends well: for what reads first and writes its results afterwards.

        Raises
        ------
        SlideChangedError
        """
        with self.guarded():
            yield
        self.confirm()

    @property
    def _sees_all(self) -> bool:
        return 0 < len(self._states) <= MOST_FILES

    def _difference(self, *, all_files: bool = False) -> str:
        """What is different of the first file that differs, in words; '' where none does."""
        paths = list(self._states)
        if not all_files and not self._sees_all:
            start, self._next = self._next, (self._next + MOST_FILES) % max(1, len(paths))
            paths = (paths + paths)[start : start + MOST_FILES]
        for path in paths:
            before, now = self._states[path], _state_of(path)
            if before != now:
                return _words(path, before, now)
        return ""

    def _compare(self, what: str, kept: Callable[[], str], *, seen: bool) -> bool:
        """Take the fingerprint again; False where that cannot be done. Raises SlideChangedError."""
        states = _states_of(self._files)
        try:
            now = self._again()
        except (SlideError, OSError) as error:
            # A folder without its files reads as an empty image.
            whole = len(self._files) == 1 and not self._files[0].is_dir() and len(self._states) == 1
            if whole or not self._files or not isinstance(error, FileNotFoundError):
                return False
            now = "parts are missing"
        if now == self.fingerprint:
            self._states = states
            return True
        doubt = "" if seen else " What was read of it since it was opened may be of either."
        remedy = (
            "Put it back and repeat the command, or begin another run (another folder with -o, or --overwrite)."
            if seen
            else "Begin another run (another folder with -o, or --overwrite)."
        )
        told = f" {kept()}".rstrip() if seen else ""
        raise SlideChangedError(
            f"{self.path} changed while it was read: {what} (fingerprint {self.fingerprint}, now {now}).{doubt}{told} "
            f"{remedy}",
            doubtful=not seen,
        )


def _states_of(files: Sequence[Path]) -> dict[str, _State | None]:
    """States of files, and of everything in folders."""
    found: dict[str, _State | None] = {}
    for file in files:
        found[str(file)] = _state_of(str(file))
        for folder, names, inside in walk_linked(file):
            for name in (*inside, *names):
                path = os.path.join(folder, name)
                found[path] = _state_of(path)
    return found


def _state_of(path: str) -> _State | None:
    """State of a file, None where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _words(path: str, before: _State | None, now: _State | None) -> str:
    name = os.path.basename(path)
    if now is None:
        return f"{name} is no longer there"
    if before is None:
        return f"{name} was not there before"
    if before[0] != now[0]:
        return f"{name} has {now[0]:,} bytes, and had {before[0]:,}"
    if before[3] != now[3]:
        return f"{name} was replaced by another file"
    return f"{name} was written to"
