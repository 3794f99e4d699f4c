"""A fine-tuning run told to another program: one JSON object per line goes out, a wish to stop comes in.

Events carry their kind in 'is':

- said: text
- step: step, steps, loss, learning_rate, seconds_left (s), metric, best
- stopped: step; the state is saved, and the same command goes on from there
- finished: folder, adapter, base and score (metrics, None where nothing was measured), forgetting
- pictured: file of `finetune.evaluation.before_after`, written after 'finished'
- failed: kind, message

A line 'cancel' on the input, or its end, stops the run after the step at hand: where the program that started it
dies, the run is not left behind.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from finetune.errors import FinetuneError, RecipeError
from wsi.limits import limit_of
from wsi.threads import start_thread

if TYPE_CHECKING:
    from finetune.config import FinetuneConfig

LOCK = ".lock"
"""Added to the name of a run's folder: the file that its process holds."""
PATIENCE_S = 60.0
"""A run that is just being stopped elsewhere is waited for this long."""

Send = Callable[..., None]


def tell(config: FinetuneConfig, send: Send, cancel: threading.Event, *, overwrite: bool = False) -> bool:
    """Run a fine-tuning and report it; True where it was stopped before its end.

    Raises
    ------
    FinetuneError
        As `finetune.train.finetune`; RecipeError where another process trains in the folder.
    """
    import dataclasses

    from finetune.evaluation.before_after import write_before_after
    from finetune.train import finetune

    with OnlyOne(config.out):
        send("said", text="Loading the model, and measuring it as it is")
        result = finetune(
            config,
            progress=lambda step: send("step", **dataclasses.asdict(step)),
            say=lambda text: send("said", text=str(text)),
            cancel=cancel,
            overwrite=overwrite,
        )
        if result.adapter is None:
            send("stopped", step=result.steps)
            return True
        send(
            "finished",
            folder=str(result.folder),
            adapter=str(result.adapter),
            base=None if result.base is None else result.base.as_dict(),
            score=None if result.score is None else result.score.as_dict(),
            forgetting=None if result.forgetting is None else result.forgetting.as_dict(),
        )
        path = write_before_after(config, result.adapter, result.folder)
        if path is not None:
            send("pictured", file=str(path))
    return False


class OnlyOne:
    """Nobody else trains in a folder meanwhile.

    Raises
    ------
    RecipeError
        Another process does, and does not end within `PATIENCE_S`.
    """

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = FileLock(str(folder) + LOCK)

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            raise RecipeError(
                f"{self._folder}: another process trains there; wait for it or stop it, then go on"
            ) from None

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def listen(lines: Iterable[str], cancel: threading.Event) -> None:
    """Set `cancel` when told to, or when there is nobody left to tell."""
    for line in lines:
        if line.strip() == "cancel":
            break
    cancel.set()


def explained(error: BaseException) -> dict[str, str]:
    """An error as 'kind' and 'message', in words that say what to do."""
    kind, message = type(error).__name__, str(error)
    if (limit := limit_of(error)) is not None:
        return {"kind": "LimitError", "message": limit}
    if "out of memory" in message.lower() or isinstance(error, MemoryError):
        return {
            "kind": "OutOfMemory",
            "message": f"Memory ran out: {message.splitlines()[0] if message else kind}. States that were saved are "
            "kept; choose a preset that takes less, or smaller tiles.",
        }
    if isinstance(error, ImportError):
        return {"kind": kind, "message": f"{message}; install napari-qwenvl[finetune]"}
    if not isinstance(error, (FinetuneError, OSError, ValueError)):
        message = f"{kind}: {message}"
    return {"kind": kind, "message": message}


def run_with_events(config: Path, *, overwrite: bool = False) -> int:
    """What `qwenvl finetune CONFIG --events` does; the exit code: 0, 1 for an error, 130 where it was stopped."""
    import traceback

    from finetune.config import FinetuneConfig
    from qwenvl.errors import QwenVLError
    from qwenvl.interrupt import stop_on_interrupt
    from wsi.errors import SlideError

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the error stream

    def send(event: str, /, **facts: object) -> None:
        with suppress(BrokenPipeError):  # nobody reads any more; the end of the input stops the run
            print(json.dumps({"is": event, **_finite(facts)}, default=str), file=out, flush=True)

    with stop_on_interrupt() as cancel:
        try:
            start_thread(listen, iter(sys.stdin.readline, ""), cancel)
            return 130 if tell(FinetuneConfig.load(config), send, cancel, overwrite=overwrite) else 0
        except Exception as error:
            if not isinstance(error, (QwenVLError, SlideError)):
                traceback.print_exception(error)
            send("failed", **explained(error))
            return 1


def _finite(value: object) -> Any:
    """The same with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["OnlyOne", "explained", "listen", "run_with_events", "tell"]
