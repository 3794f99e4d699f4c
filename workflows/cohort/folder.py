"""The folder of a batch: its own small room `.batch`, who is at work there, and why slides failed."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from workflows.errors import FolderNotWritableError, ForeignFolderError, RunLockedError
from workflows.store.folder import replace_whole
from workflows.store.provenance import utc_now
from wsi.cleanup import clean_up

ROOM = ".batch"
PLAN = "cohort.json"
TABLE_CSV, TABLE_PARQUET = "summary.csv", "summary.parquet"
RESERVED = frozenset({ROOM, PLAN, TABLE_CSV, TABLE_PARQUET, "cohort.html", "report.html"})
"""Names in a batch's folder that no slide may take."""


@dataclass(frozen=True)
class BatchFolder:
    """Paths below the output folder of a batch."""

    root: Path

    @property
    def plan(self) -> Path:
        """The cohort as it was planned last."""
        return self.root / ROOM / PLAN

    @property
    def token(self) -> Path:
        """Names the call at work. Workers stop after the batch at hand where it is gone or another's."""
        return self.root / ROOM / "token"

    def run(self, id: str) -> Path:
        """The run folder of a slide."""
        return self.root / id

    def part(self, id: str, name: str) -> Path:
        """The folder of a part of a slide."""
        return self.root / id / "parts" / name

    def failure(self, id: str) -> Path:
        """Why the last attempt at a slide ended."""
        return self.root / ROOM / "failures" / f"{id}.json"


class AtWork:
    """The right to run a batch in a folder, held by one process; a context manager.

    Raises
    ------
    RunLockedError
        Another process runs a batch there.
    FolderNotWritableError, ForeignFolderError
    """

    def __init__(self, folder: BatchFolder) -> None:
        self._folder = folder
        self.token = uuid.uuid4().hex
        root = folder.root
        if root.exists() and not root.is_dir():
            raise ForeignFolderError(f"{root} is a file, and a batch needs a folder. Name another one with -o.")
        if not (root / ROOM).exists():
            taken = sorted(name for name in RESERVED if (root / name).exists())
            if taken:
                raise ForeignFolderError(
                    f"{root} holds no batch, but {', '.join(taken)}, which a batch writes. Name a new folder with -o."
                )
        try:
            (root / ROOM / "failures").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(root / ROOM / "lock", thread_local=False)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RunLockedError(
                f"Another `qwenvl batch` is at work in {root}. Wait until it is done or stop it; "
                f"`qwenvl batch status {root}` shows how far it is."
            ) from error
        except OSError as error:
            raise FolderNotWritableError(
                f"{root} cannot be written in ({error.strerror}). Name another folder with -o."
            ) from error
        try:
            replace_whole(folder.token, lambda path: _write(path, self.token))
        except BaseException as error:
            clean_up(error, self._lock.release)
            raise

    def call_off(self) -> None:
        """Tell the workers to stop after the batch at hand."""
        self._folder.token.unlink(missing_ok=True)

    def __enter__(self) -> AtWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.call_off, self._lock.release)


class CalledOff(threading.Event):
    """An event that is set once the call that gave out the work is over, or another has taken its place.

    It looks at the token file, at most once per `every` seconds: so it works across machines that share the
    folder, also after the process that wrote it was killed and a new one began.
    """

    def __init__(self, path: Path, token: str, every: float = 0.5) -> None:
        super().__init__()
        self._path, self._token, self._every, self._next = path, token, every, 0.0

    def is_set(self) -> bool:
        """True once the work is called off."""
        now = time.monotonic()
        if not super().is_set() and now >= self._next:
            self._next = now + self._every
            try:
                if self._path.read_text(encoding="utf-8") != self._token:
                    self.set()
            except FileNotFoundError:
                self.set()
            except OSError:
                pass  # A shared file system that hiccups calls nothing off.
        return super().is_set()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last attempt at a slide ended."""

    time: str
    reason: str
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException, *, expected: bool) -> Failure:
        """The words of an error; an unforeseen one with its trace."""
        if expected:
            return cls(utc_now(), str(error))
        return cls(utc_now(), f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))

    def write(self, path: Path) -> None:
        """Note it. A disk without room for a note is no reason to stop: the caller has it as well."""
        text = json.dumps({"time": self.time, "reason": self.reason, "trace": self.trace}, ensure_ascii=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_whole(path, lambda partial: _write(partial, text))
        except OSError:
            return

    @classmethod
    def read(cls, path: Path) -> Failure | None:
        """The note at a path, or None."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
