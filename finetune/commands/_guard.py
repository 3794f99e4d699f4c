"""Errors of this project become one line and an exit code, never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

ERROR, USAGE, INTERRUPTED = 1, 2, 130


def stop(message: str, code: int = ERROR) -> NoReturn:
    """Print an error and exit."""
    typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that it reports the project's own errors."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from pydantic import ValidationError

        from qwenvl.errors import QwenVLError
        from workflows.store.run_store import StoreError
        from wsi.errors import SlideError
        from wsi.limits import limit_of

        try:
            return command(*args, **kwargs)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            stop(f"{where}: {first['msg']}", USAGE)
        except (QwenVLError, SlideError, StoreError) as error:
            stop(limit_of(error) or str(error))
        except OSError as error:
            told = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            stop(limit_of(error) or told)
        except RuntimeError as error:
            if (limit := limit_of(error)) is None:
                raise
            stop(limit)

    return run


def pairs_of(values: list[str], option: str) -> dict[str, str]:
    """'a=b' options as a mapping."""
    found = {}
    for value in values:
        left, mark, right = value.partition("=")
        if not mark or not left.strip() or not right.strip():
            stop(f"{option} {value!r}: write it as old=new", USAGE)
        found[left.strip()] = right.strip()
    return found


def listed(text: str | None) -> tuple[str, ...]:
    """Comma-separated words."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
