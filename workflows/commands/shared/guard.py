"""Errors of this project become one line and an exit code, never a traceback."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

ERROR = 1
"""Exit code of a named error: nothing was written, or what was finished was kept."""
USAGE = 2
"""Exit code of flags that do not fit together."""
INCOMPLETE = 3
"""Exit code of a run that ended with failed tiles; the report lists them."""
INTERRUPTED = 130


def stop(message: str, code: int = ERROR) -> NoReturn:
    """Print an error and exit."""
    from wsi.files.names import path_text

    typer.secho(f"error: {path_text(message)}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)


def _in_words(item: object) -> str:
    assert isinstance(item, dict)
    where = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command so that it reports the project's own errors."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from pydantic import ValidationError

        from qwenvl.errors import QwenVLError
        from workflows.errors import OptionsError, WorkflowError
        from wsi.errors import SlideError
        from wsi.limits import limit_of

        for stream in (sys.stdout, sys.stderr):  # a file name that is no UTF-8 ends no command
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return command(*args, **kwargs)
        except ValidationError as error:
            stop("; ".join(_in_words(item) for item in error.errors()), USAGE)
        except OptionsError as error:
            stop(str(error), USAGE)
        except (SlideError, QwenVLError, WorkflowError) as error:
            stop(limit_of(error) or str(error))
        except OSError as error:
            told = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            stop(limit_of(error) or told)
        except RuntimeError as error:
            if (limit := limit_of(error)) is None:
                raise
            stop(limit)
        except KeyboardInterrupt:
            typer.secho("Interrupted. Finished tiles are kept; repeat the command to go on.", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return run
