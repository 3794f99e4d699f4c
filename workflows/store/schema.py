"""The journal's tables, and how SQLite's errors become ours.

Answers are only ever added. A tile that failed may be asked again and then has several rows, distinguished by
`attempt`; the last one counts (view `latest`). A tile that was answered has exactly one row that did not
fail: the unique index sees to it, whatever the program does. Objects are keyed by tile and position in the
answer, so that they lie on disk in reading order and keep their key in every repetition of the run. Nothing a
person decides changes them: reviews are rows of their own.

Manifest, tiles, answers and reviews have checksums (`workflows.store.checksums`): bits that change on disk are noticed.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from workflows.errors import StoreCorruptError, StoreError, StoreFullError, StoreVersionError, is_full, why_full
from wsi.cleanup import clean_up
from wsi.limits import may_open_files, raise_limit, size_limit

_log = logging.getLogger(__name__)
_ROOM = 1 << 20
"""Bytes of room below which a disk counts as full."""
APPLICATION_ID = 0x51564C52  # 'QVLR'
VERSION = 1
SPLIT_VERSION = 2
"""Version of a journal in which tiles were split or left out: an earlier program would count them wrongly."""

ITEMS_VERSION = 3
"""Version of a journal whose items are no tiles of a slide."""

_HEAD = """
PRAGMA application_id = {application};
PRAGMA user_version = {version};

CREATE TABLE manifest (json TEXT NOT NULL);

CREATE TABLE checks (name TEXT PRIMARY KEY, checksum INTEGER NOT NULL);
"""
_TILES = """
CREATE TABLE tiles (
    tile INTEGER PRIMARY KEY,
    x0 INTEGER NOT NULL, y0 INTEGER NOT NULL, width0 INTEGER NOT NULL, height0 INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL,
    core_x0 INTEGER NOT NULL, core_y0 INTEGER NOT NULL, core_x1 INTEGER NOT NULL, core_y1 INTEGER NOT NULL,
    tissue REAL NOT NULL, core_tissue REAL NOT NULL
);
"""
_ITEMS = """
CREATE TABLE items (tile INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
"""
_ANSWERS = """
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tile INTEGER NOT NULL REFERENCES {unit} (tile),
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    text TEXT, value TEXT, scores TEXT, raw TEXT, reasoning TEXT, notes TEXT,
    prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    objects INTEGER NOT NULL,
    error TEXT,
    checksum INTEGER,
    UNIQUE (tile, attempt)
);
CREATE UNIQUE INDEX answered_once ON answers (tile) WHERE status <> 'failed';

CREATE VIEW latest AS
    SELECT * FROM answers AS a
    WHERE attempt = (SELECT max(attempt) FROM answers AS b WHERE b.tile = a.tile);

CREATE TABLE objects (
    tile INTEGER NOT NULL REFERENCES {unit} (tile),
    item INTEGER NOT NULL,
    label TEXT NOT NULL,
    kind TEXT NOT NULL,
    x_min REAL NOT NULL, y_min REAL NOT NULL, x_max REAL NOT NULL, y_max REAL NOT NULL,
    score REAL,
    attributes TEXT,
    PRIMARY KEY (tile, item)
) WITHOUT ROWID;
"""
TABLES = (_HEAD + _TILES + _ANSWERS).format(application=APPLICATION_ID, version=VERSION, unit="tiles")
"""Of a run on a slide. Column `tile` of answers and objects is the number of the item."""
ITEM_TABLES = (_HEAD + _ITEMS + _ANSWERS).format(application=APPLICATION_ID, version=ITEMS_VERSION, unit="items")
"""Of a run whose items are no tiles: each has a key of its own kind."""

REVIEWS = """
CREATE TABLE IF NOT EXISTS reviews (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    step INTEGER NOT NULL,
    time TEXT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    target INTEGER,
    object TEXT,
    tile INTEGER, item INTEGER,
    verdict TEXT, label TEXT, kind TEXT,
    x_min REAL, y_min REAL, x_max REAL, y_max REAL,
    seen_label TEXT, seen_x_min REAL, seen_y_min REAL, seen_x_max REAL, seen_y_max REAL,
    note TEXT,
    checksum INTEGER
);
CREATE TRIGGER IF NOT EXISTS reviews_are_kept BEFORE DELETE ON reviews
    BEGIN SELECT raise(ABORT, 'reviews are only ever added'); END;
CREATE TRIGGER IF NOT EXISTS reviews_stay BEFORE UPDATE ON reviews
    BEGIN SELECT raise(ABORT, 'reviews are only ever added'); END;
"""
"""What people decided about objects, one row per object and decision (`workflows.review.decisions`). Added to a journal
by its first review, so that a run without reviews is as it always was."""

SPLITS = (
    """CREATE TABLE IF NOT EXISTS splits (
        tile INTEGER PRIMARY KEY REFERENCES tiles (tile),
        why TEXT NOT NULL, depth INTEGER NOT NULL, children INTEGER NOT NULL
    )""",
    f"PRAGMA user_version = {SPLIT_VERSION}",
)
"""Tiles that others took the place of (`workflows.run.splitting`). Their answers stay in the journal and count for
nothing but effort. Added by the first split."""

GATE = (
    "CREATE TABLE IF NOT EXISTS gate (json TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS skipped (tile INTEGER PRIMARY KEY REFERENCES tiles (tile), score REAL NOT NULL)",
    f"PRAGMA user_version = {SPLIT_VERSION}",
)
"""What the coarse tiles of a cascade decided (`workflows.run.plan.cascade`), in one row, and the tiles left out by it
with the highest score that any coarse tile gave them. Added with the decision, which is made once."""

DOUBTS = "CREATE TABLE IF NOT EXISTS doubts (words TEXT PRIMARY KEY)"
"""Why answers may be of two contents of one slide (`workflows.inputs.watched`). Added by the first doubt."""


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises about the journal at `path` into the errors of `workflows`."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StoreError(
            f"{path} already holds a finished answer of one of these tiles, or has no such tile ({error}). "
            "Only unanswered and failed tiles can be stored."
        ) from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if (why := _why_full(path, primary)) is not None:
            raise StoreFullError(
                f"{path} cannot grow. {why} The tiles finished so far are kept; make room and repeat the command."
            ) from error
        if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and not may_open_files():
            raise_limit(OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path)))
        if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise StoreCorruptError(
                f"{path} is not a readable journal ({error}). Restore it from a copy, or begin again with "
                "another folder (-o) or --overwrite."
            ) from error
        raise StoreError(f"{path} cannot be used: {error}. Check that the folder is readable and writable.") from error


def _why_full(path: Path, primary: int | None) -> str | None:
    """Why a journal cannot grow, or None. SQLite reports some full disks, quotas and limits as an I/O error."""
    full = why_full(OSError(errno.ENOSPC, ""))
    if primary == sqlite3.SQLITE_FULL:
        return full
    if primary != sqlite3.SQLITE_IOERR:
        return None
    try:
        if shutil.disk_usage(path.parent).free < _ROOM:
            return full
        files = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal"))
        largest = max((file.stat().st_size for file in files if file.exists()), default=0)
        if (most := size_limit()) is not None and largest > most - _ROOM:
            return why_full(OSError(errno.EFBIG, ""))
        with tempfile.TemporaryFile(dir=path.parent) as trial:  # a quota shows only when something is written
            trial.write(bytes(_ROOM))
        return None
    except OSError as error:
        return why_full(error) if is_full(error) else None


def connect(path: Path, *, readonly: bool, versions: tuple[int, ...] = (VERSION, SPLIT_VERSION)) -> sqlite3.Connection:
    """Open a journal and check that it is one, of one of some versions.

    Raises
    ------
    StoreCorruptError, StoreVersionError, StoreError
    """
    with named_errors(path):
        if readonly:
            connection = _connect_readonly(path)
        else:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        with named_errors(path):
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION_ID:
                raise StoreCorruptError(
                    f"{path} is an SQLite file of another program. Name another output folder with -o."
                )
            if found not in versions and found in (VERSION, SPLIT_VERSION, ITEMS_VERSION):
                about = "photographs, pages or answers" if found == ITEMS_VERSION else "tiles of a slide"
                raise StoreError(
                    f"{path} is the journal of another kind of run: its items are {about}. Name another folder, "
                    "or set it aside with --overwrite."
                )
            if found not in versions:
                raise StoreVersionError(
                    f"{path} has journal version {found}; this program reads up to version {ITEMS_VERSION}. "
                    "Use the version of napari-qwenvl that wrote it, or another folder."
                )
            connection.execute("PRAGMA busy_timeout = 10000")
            if not readonly:
                if set_pragmas(connection) != "wal":
                    _log.warning(
                        "%s is on a file system without WAL: its journal is kept in another mode (truncate), and "
                        "reading the run waits while an answer is stored.",
                        path,
                    )
                _quick_check(path, connection)
                _add_checksums(connection)
    except BaseException as error:
        clean_up(error, connection.close)
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is written in the block is stored whole, or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            clean_up(error, partial(connection.execute, "ROLLBACK"))
        raise


def set_pragmas(connection: sqlite3.Connection) -> str:
    """WAL lets readers look while a run writes; a power cut may cost the last batch, never the journal.

    Returns
    -------
    str
        The journal mode in use: 'wal', or 'truncate' on a file system that has no shared memory for WAL.
    """
    try:
        mode = str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]).lower()
    except sqlite3.OperationalError as error:
        # What a network file system without shared memory or locks of its own raises.
        if (error.sqlite_errorcode & 0xFF) not in (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PROTOCOL,
        ):
            raise
        mode = ""
    if mode != "wal":
        mode = str(connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0]).lower()
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    connection.execute("PRAGMA foreign_keys = ON")
    return mode


def _quick_check(path: Path, connection: sqlite3.Connection) -> None:
    """Nothing is written into a journal whose pages are damaged."""
    found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise StoreCorruptError(
            f"{path} is damaged: {'; '.join(found)}. Restore it from a copy, or begin again with another folder "
            "(-o) or --overwrite."
        )


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Journals from before answers had a checksum get the column; their answers stay without."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(answers)")}
    if "checksum" not in columns:
        connection.execute("ALTER TABLE answers ADD COLUMN checksum INTEGER")


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """Read only; where the folder cannot be written (an archive), without the shared memory of WAL mode."""
    uri = path.resolve().as_uri()
    connection = _connect_uri(f"{uri}?mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise  # answers that were not yet moved into the journal: they need a folder that can be written
        connection = _connect_uri(f"{uri}?mode=ro&immutable=1")
    return connection


def _connect_uri(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
