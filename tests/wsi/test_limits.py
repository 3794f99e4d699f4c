"""Limits of a process: told from other errors wherever they hide, and a named error where threads are started."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

import wsi.threads
from wsi.errors import LimitError, ReadError, SlideError
from wsi.limits import limit_of, may_open_files, raise_limit
from wsi.threads import openmp_threads, start_thread, thread_pool, usable_cores


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.svs"), "ulimit -n"),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), "ulimit -n"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "ulimit -f|file system"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (_raised(ReadError("damaged"), OSError(errno.EMFILE, "x")), "ulimit -n"),
        (ReadError(f"Could not open a.svs: {os.strerror(errno.EMFILE)}"), "ulimit -n"),
        (_raised(RuntimeError("Nanny failed to start."), BlockingIOError(errno.EAGAIN, "x")), "ulimit -u"),
    ],
)
def test_limits_are_told_with_their_remedy(error: BaseException, words: str) -> None:
    assert any(each in (limit_of(error) or "") for each in words.split("|"))
    with pytest.raises(LimitError, match="repeat the command"):
        raise_limit(error)


def test_other_errors_are_no_limits() -> None:
    hidden = ReadError("damaged")
    hidden.__context__ = BlockingIOError(errno.EAGAIN, "a socket that has nothing to say yet")
    for error in (OSError(errno.ENOSPC, "full"), RuntimeError("odd"), SlideError("damaged"), hidden, MemoryError()):
        assert limit_of(error) is None
        raise_limit(error)
    assert may_open_files()


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """So many threads may run besides those there are."""
    more, base = [0], threading.active_count()
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if threading.active_count() - base >= more[0]:
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    return more


@pytest.mark.parametrize("there", [1, 3, 4, 9])
def test_a_pool_has_the_threads_that_the_system_starts(few_threads: list[int], there: int) -> None:
    few_threads[0] = there
    with thread_pool(4, "few") as pool:
        assert sum(each.name.startswith("few") for each in threading.enumerate()) == min(there, 4)
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
    assert not [each.name for each in threading.enumerate() if each.name.startswith("few")]


def test_no_thread_at_all_is_a_named_error(few_threads: list[int]) -> None:
    with pytest.raises(LimitError, match="No further thread"):
        thread_pool(2, "none")
    with pytest.raises(LimitError, match="No further thread"):
        start_thread(print)


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wsi.threads, "_CGROUP", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 4
    for text, cores in (("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("garbage", 4)):
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cores() == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    (tmp_path / "cpu.max").unlink()
    assert usable_cores() == 64


@pytest.mark.parametrize(
    ("text", "threads"), [("4,2", 4), ("8", 8), (" 3 ", 3), ("", None), ("many", None), ("0", None), ("-2", None)]
)
def test_the_number_of_openmp_threads(monkeypatch: pytest.MonkeyPatch, text: str, threads: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert openmp_threads() == threads
