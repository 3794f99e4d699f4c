"""Journals damaged on disk, folders that several processes want, file systems without WAL."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from run_helpers import CountingEngine, MemorySlide, request_of

from qwenvl.request import Task
from workflows.errors import (
    FolderNotWritableError,
    RunLockedError,
    StoreCorruptError,
    StoreFullError,
    WorkflowError,
    is_full,
)
from workflows.export import export_geojson
from workflows.run.slide import finish_run, run_slide
from workflows.store.folder import JOURNAL, claim, lock_path
from workflows.store.run_store import RunStore
from workflows.store.schema import named_errors, set_pragmas


def facts_of(folder: Path) -> list[tuple]:
    """All that a run says, as plain values."""
    with RunStore.open(folder) as store:
        store.verify()
        answers = [(a.tile, a.answer, a.objects) for a in store.iter_answers(raw=True)]
        objects = store.objects()
        rows = list(zip(objects.tile, objects.item, objects.label, map(tuple, objects.box), objects.score, strict=True))
        return [*answers, *rows, *store.labels, store.manifest]


def error_of(use: Callable[[], object]) -> str | None:
    """What a named error says; None where there is none."""
    try:
        use()
    except WorkflowError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_slide(
        MemorySlide(), request_of(Task.DETECT), CountingEngine(boxes=6, batch=4), folder, mask="all", overview=False
    )
    with sqlite3.connect(folder / JOURNAL) as journal:
        journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def test_a_flipped_bit_is_found_or_changes_nothing(finished: Path, tmp_path: Path) -> None:
    """60 flips and 20 truncations of the journal: a named error, or the answers that were stored."""
    whole = (finished / JOURNAL).read_bytes()
    want = facts_of(finished)
    rng = random.Random(5)
    found = 0
    for number in range(80):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        data = bytearray(whole)
        if number < 60:
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        (folder / JOURNAL).write_bytes(data)
        said = error_of(lambda folder=folder: facts_of(folder) == want or pytest.fail("another result, silently"))
        found += said is not None
        for error in (said, error_of(lambda folder=folder: RunStore.open(folder, readonly=False).close())):
            assert error is None or str(folder) in error
    assert found >= 20


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE answers SET status = 'empty' WHERE tile = (SELECT min(tile) FROM answers)",
        "UPDATE objects SET x_min = x_min + 1 WHERE rowid_like",
        "UPDATE objects SET label = 'other' WHERE rowid_like",
        "DELETE FROM objects WHERE rowid_like",
    ],
)
def test_an_answer_that_is_not_what_was_stored_is_named(finished: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / JOURNAL).write_bytes((finished / JOURNAL).read_bytes())
    with sqlite3.connect(folder / JOURNAL) as journal:
        first = "tile = (SELECT min(tile) FROM objects) AND item = 0"
        changed = journal.execute(change.replace("rowid_like", first)).rowcount
    journal.close()
    assert changed == 1
    for use in (
        lambda: RunStore.open(folder, readonly=False),
        lambda: finish_run(folder),
        lambda: export_geojson(folder, tmp_path / "out.geojson"),
    ):
        with pytest.raises(StoreCorruptError, match="answers of 1 tiles"):
            use()


def test_a_journal_from_before_checksums_goes_on(tmp_path: Path) -> None:
    folder, engine = tmp_path / "run", CountingEngine(boxes=6, batch=4)
    request = request_of(Task.DETECT)
    run_slide(MemorySlide(), request, engine, folder, mask="all", overview=False, limit=3)
    with sqlite3.connect(folder / JOURNAL) as journal:
        journal.executescript(
            "DROP VIEW latest; ALTER TABLE answers DROP COLUMN checksum; CREATE VIEW latest AS SELECT * FROM answers "
            "AS a WHERE attempt = (SELECT max(attempt) FROM answers AS b WHERE b.tile = a.tile);"
        )
    journal.close()
    with RunStore.open(folder) as store:
        store.verify()
    result = run_slide(MemorySlide(), request, engine, folder, mask="all", overview=False)
    assert result.complete
    with RunStore.open(folder) as store:
        store.verify()
        codes = [row[0] is None for row in store._rows("SELECT checksum FROM answers ORDER BY seq")]
    assert codes == [True] * 3 + [False] * (len(codes) - 3)


def test_without_shared_memory_another_journal_mode_is_chosen(tmp_path: Path) -> None:
    """SQLite's dot-file locking has no shared memory, as some network file systems."""
    uri = f"{(tmp_path / 'a.sqlite').as_uri()}?vfs=unix-dotfile"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    assert set_pragmas(connection) == "truncate"
    connection.execute("CREATE TABLE a (b)")
    connection.close()
    connection = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
    assert set_pragmas(connection) == "wal"
    connection.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    assert is_full(OSError(number, "no"))
    assert not is_full(OSError(errno.EACCES, "no"))

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("workflows.store.schema.tempfile.TemporaryFile", full)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    with pytest.raises(StoreFullError, match="finished so far are kept"), named_errors(tmp_path / "run.sqlite"):
        raise error


def _hold(folder: Path, overwrite: bool, turns: int, results: multiprocessing.Queue) -> None:
    """Claim a folder again and again; inside, look whether anybody else is there."""
    inside = folder.parent / "inside"
    for _ in range(turns):
        try:
            held = claim(folder, overwrite=overwrite)
        except RunLockedError:
            results.put("locked")
            continue
        except BaseException as error:
            results.put(repr(error))
            continue
        try:
            mark = os.open(inside, os.O_CREAT | os.O_EXCL)
            os.close(mark)
            (folder / JOURNAL).write_bytes(b"x")
            inside.unlink()
            results.put("held")
        except BaseException as error:
            results.put(f"two holders: {error!r}")
        finally:
            held.release()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_has_one_holder_and_the_others_hear_why(tmp_path: Path, overwrite: bool) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    folder = tmp_path / "some" / "run"
    workers = [context.Process(target=_hold, args=(folder, overwrite, 40, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in range(160)]
    for worker in workers:
        worker.join()
    assert set(found) <= {"held", "locked"}
    assert "held" in found
    kept = list(folder.parent.glob("run.bak-*"))
    assert len(kept) == (found.count("held") - 1 if overwrite else 0)


def test_the_lock_lies_beside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    held = claim(folder)
    assert lock_path(folder) == tmp_path / ".run.lock"
    assert list(folder.iterdir()) == []
    held.undo()
    assert list(tmp_path.iterdir()) == []
    # Where the folder around cannot be written in, it lies inside, and nothing is renamed.
    monkeypatch.setattr("workflows.store.folder.os.access", lambda *_: False)
    folder.mkdir()
    held = claim(folder)
    assert lock_path(folder).parent == folder
    (folder / JOURNAL).write_bytes(b"x")
    held.release()
    with pytest.raises(FolderNotWritableError, match="cannot be set aside"):
        claim(folder, overwrite=True)


def test_undoing_a_start_never_hides_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program puts a file into the folder while the run is being started and fails."""
    folder = tmp_path / "run"

    def fails(*_: object) -> None:
        (folder / "notes.txt").write_text("mine")
        raise ValueError("the first error")

    monkeypatch.setattr("workflows.run.journal._write_new", fails)
    with pytest.raises(ValueError, match="the first error"):
        run_slide(
            MemorySlide(), request_of(Task.DETECT), CountingEngine(boxes=6, batch=4), folder, mask="all", overview=False
        )
    assert (folder / "notes.txt").read_text() == "mine"
