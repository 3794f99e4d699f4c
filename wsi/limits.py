"""What a process can run out of besides memory: open files, threads and processes, the size of a file.

None of it is the fault of a slide, a tile or a file: whoever meets it stops, keeps what is finished, and says which
limit it was and how to raise it. This module is the one place that tells such errors from others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from wsi.errors import LimitError

_AGAIN = "What was finished is kept: repeat the command to go on."
_FILES = (errno.EMFILE, errno.ENFILE)


def limit_of(error: BaseException) -> str | None:
    """Which limit an error, or one that led to it, tells of: words with what to do; None for any other error."""
    for each, meant in _chain(error):
        if isinstance(each, LimitError):
            return str(each)
        if isinstance(each, OSError) and each.errno == errno.EFBIG:
            return f"{file_too_large()} {_AGAIN}"
        text = str(each)
        if getattr(each, "errno", None) in _FILES or any(os.strerror(code) in text for code in _FILES):
            return (
                f"Too many files are open: this process may open {_allowed('RLIMIT_NOFILE')} (`ulimit -n`). Raise the "
                f"limit, close other programs, or take fewer workers. {_AGAIN}"
            )
        if "can't start new thread" in text or (meant and isinstance(each, BlockingIOError)):
            return (
                "No further thread or process can be started: the user or the container may have "
                f"{_allowed('RLIMIT_NPROC')} (`ulimit -u`, pids.max). End other programs, take fewer workers, or raise "
                f"the limit. {_AGAIN}"
            )
    return None


def raise_limit(error: BaseException) -> None:
    """Raise LimitError where an error tells of a limit of the process; return where it does not."""
    words = limit_of(error)
    if words is not None:
        raise LimitError(words) from error


def size_limit() -> int | None:
    """Bytes that a file of this process may have (`ulimit -f`); None where there is no limit."""
    return _limit("RLIMIT_FSIZE")


def file_too_large() -> str:
    """What EFBIG says, in words."""
    most = size_limit()
    limit = "the file system's limit" if most is None else f"{most:,} bytes, `ulimit -f`"
    return f"A file would grow beyond what this process may write ({limit})."


def may_open_files() -> bool:
    """Whether this process may open one file more, now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in _FILES
    return True


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """The error and what led to it; with each, whether all steps to it were stated (`raise ... from`)."""
    seen: set[int] = set()
    each: BaseException | None = error
    meant = True
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each, meant
        meant = meant and each.__cause__ is not None
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _allowed(name: str) -> str:
    most = _limit(name)
    return "no more than the system has" if most is None else f"{most:,}"


def _limit(name: str) -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(getattr(resource, name))[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


__all__ = ["LimitError", "file_too_large", "limit_of", "may_open_files", "raise_limit", "size_limit"]
