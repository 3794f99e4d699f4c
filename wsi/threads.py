"""Starting threads, and how many: what a system refuses to start is a named error, never a traceback or a wait."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsi.limits import raise_limit

_log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the share of a container; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP.read_text(encoding="ascii").split()
        share = cores if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):
        share = cores
    return max(1, min(cores, share))


def openmp_threads() -> int | None:
    """The number that OMP_NUM_THREADS gives, of the outermost level ('4,2' is 4); None where it gives none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def start_thread(work: Callable[..., object], *args: object, name: str | None = None) -> threading.Thread:
    """Start a daemon thread.

    Raises
    ------
    LimitError
        The system starts no further one.
    """
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise_limit(error)
        raise
    return thread


def thread_pool(workers: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads run already, so that handing it work cannot fail for want of one.

    Where the system starts fewer than asked for, the pool has those, and the log says so.

    Raises
    ------
    LimitError
        Not one thread can be started.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    go = threading.Event()
    try:
        for started in range(workers):  # noqa: B007
            pool.submit(go.wait)
    except RuntimeError as error:
        go.set()
        pool.shutdown(wait=started > 0)
        if started == 0:
            raise_limit(error)
            raise
        _log.warning("Only %d of %d threads of %s could be started.", started, workers, name)
        return thread_pool(started, name)
    go.set()
    return pool


__all__ = ["openmp_threads", "start_thread", "thread_pool", "usable_cores"]
