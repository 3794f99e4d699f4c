"""The process that runs the model: `python -m napari_qwenvl.process.child`, told by JSON lines what to do.

torch holds Python's lock while it decodes, so a model in the viewer's own process would make the viewer stutter.
Here it has a process to itself: answers go into the run's journal, where the viewer reads them, and only short
events come back over the pipe. When the viewer goes away, so does this process; the run can be resumed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from qwenvl.checkpoints.adapters.adapter import AdapterSwitch
    from qwenvl.engines.base import Engine
    from workflows.run.options import RunOptions

GRACE_S = 0.35
"""A cancelled run may finish its batch within this time; then the batch is dropped."""


class Stopped(BaseException):
    """The batch at hand is dropped. Not an Exception, so that nothing on the way mistakes it for a failed tile."""


class Paced:
    """An engine that is given few tiles at a time, so that the first boxes come soon."""

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most

    def batch_size(self, request: Any) -> int:
        """The engine's own, or fewer."""
        return min(self._most, self._engine.batch_size(request))

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)


class Child:
    """Reads commands, does one at a time, writes events. `cancel` and `quit` are heeded at once."""

    def __init__(self, send: Callable[..., None]) -> None:
        self.send = send
        self.commands: queue.Queue[dict[str, object] | None] = queue.Queue()
        self.cancel = threading.Event()
        self.engine: Engine | None = None
        self.recommended: Mapping[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._base: dict[str, Any] | None = None
        self._switch: AdapterSwitch | None = None
        self._stoppable = self._quitting = False
        signal.signal(signal.SIGINT, self._on_interrupt)

    def listen(self, lines: Iterator[str]) -> None:
        """Queue commands until the viewer closes the pipe; runs on a thread of its own."""
        for line in lines:
            command = json.loads(line)
            if command["do"] in ("cancel", "quit"):
                self._quitting |= command["do"] == "quit"
                self._cancel()
                if self._quitting:
                    self.commands.put(None)
            else:
                self.commands.put(command)
        self._quitting = True
        self._cancel()
        self.commands.put(None)

    def work(self) -> None:
        """Do what is asked, in order, until told to quit."""
        while (command := self.commands.get()) is not None and not self._quitting:
            about = {"id": command["id"]} if "id" in command else {}
            self.cancel.clear()
            try:
                getattr(self, f"do_{command['do']}")(command)
            except Stopped:
                if about:
                    self.send("stopped", **about)
            except BaseException as error:
                self.send("failed", **about, **explain(error))
                if isinstance(error, SystemExit):
                    raise

    # ------------------------------------------------------------------ commands

    def do_load(self, command: dict[str, Any]) -> None:
        """Load a model, unless it is loaded already. Not interrupted: half-imported libraries would stay broken."""
        wanted = command["model"]
        if self.engine is not None and wanted == self._loaded:
            self._ready()
            return
        base = wanted | {"adapter": None}
        if self.engine is None or base != self._base:
            self._unload()
            self.send("loading", model=wanted["model"])
            from workflows.run.options import load_engine

            self.engine, self.recommended = load_engine(_options(base))
            self._base = self._loaded = base
        if wanted.get("adapter") is not None or self._switch is not None:
            self._put_on(wanted)
        self._loaded = wanted
        self._ready()

    def _put_on(self, wanted: dict[str, Any]) -> None:
        """Put an adapter on the loaded model, or take it off, without loading the model again."""
        from qwenvl.checkpoints.adapters.adapter import AdapterSwitch
        from qwenvl.engines.local import LocalEngine
        from qwenvl.errors import CheckpointError

        if self._switch is None:
            self._switch = AdapterSwitch(self.engine.checkpoint)  # type: ignore[union-attr]
        try:
            engine = LocalEngine(self._switch.use(wanted.get("adapter")))
        except CheckpointError:
            self.engine = LocalEngine(self._switch.use(None))
            self._loaded = self._base
            raise
        self.engine, self.recommended = engine, engine.checkpoint.recommended

    def do_run(self, command: dict[str, Any]) -> None:
        """Run a request over a slide; see `run_slide`."""
        from napari_qwenvl.ask.region import open_shown
        from qwenvl.request import Request
        from workflows.run.slide import run_slide

        self.do_load(command)
        assert self.engine is not None
        request = Request.model_validate(command["request"])
        number = command["id"]
        engine: Any = self.engine if command["pace"] is None else Paced(self.engine, command["pace"])
        self.send("started", id=number)
        try:
            with self._heed(), open_shown(command) as slide:
                result = run_slide(
                    slide,
                    request,
                    engine,
                    Path(command["out"]),
                    mask=command["mask"],
                    frame=command.get("frame"),
                    command=command["command"],
                    cancel=self.cancel,
                    overview=command["overview"],
                    progress=lambda state: self.send(
                        "progress",
                        id=number,
                        done=state.done,
                        total=state.total,
                        resumed=state.resumed,
                        failed=state.failed,
                        objects=state.objects,
                        rate=state.rate,
                        eta=state.eta,
                        seq=state.seq,
                    ),
                )
        except Stopped:
            self.send("stopped", id=number)
            self._report(Path(command["out"]))
            return
        if result.cancelled:
            self.send("stopped", id=number)
        else:
            self.send("finished", id=number, complete=result.complete, warnings=list(result.report.warnings))

    def do_ask(self, command: dict[str, Any]) -> None:
        """Ask about one region of a slide, with what the user marked in it."""
        from napari_qwenvl.ask.region import ask_region

        self.do_load(command)
        assert self.engine is not None
        with self._heed():
            answer = ask_region(self.engine, command)
        self.send("answer", id=command["id"], answer=answer)

    def do_probe(self, command: dict[str, Any]) -> None:
        """Measure the model's pace on some tiles; the second of two passes counts."""
        from napari_qwenvl.ask.region import seconds_per_tile

        self.do_load(command)
        assert self.engine is not None
        with self._heed():
            seconds = seconds_per_tile(self.engine, command)
        self.send("pace", key=command["key"], seconds=seconds)

    def do_unload(self, command: Mapping[str, object]) -> None:
        """Let go of the model."""
        self._unload()
        self.send("unloaded")

    # ------------------------------------------------------------------ parts

    def _ready(self) -> None:
        assert self.engine is not None
        info = self.engine.info
        facts = {name: getattr(info, name) for name in ("model", "family", "fingerprint", "dtype", "device", "warning")}
        self.send("ready", info=facts, recommended=dict(self.recommended), asked=self._loaded)

    def _unload(self) -> None:
        if self.engine is not None:
            self.engine.close()
        self.engine, self._loaded, self.recommended = None, None, {}
        self._base = self._switch = None

    def _report(self, folder: Path) -> None:
        """Write the report of a run that was stopped in mid-batch, unless something else is wanted meanwhile."""
        from workflows.errors import RunNotFoundError
        from workflows.run.slide import finish_run

        self.cancel.clear()
        try:
            with self._heed():
                finish_run(folder)
        except (Stopped, RunNotFoundError):
            return
        self.send("reported", folder=str(folder))

    @contextmanager
    def _heed(self) -> Iterator[None]:
        """Within this block a cancelled command is interrupted."""
        self._stoppable = True
        try:
            if self.cancel.is_set():
                raise Stopped
            yield
        finally:
            self._stoppable = False

    def _cancel(self) -> None:
        self.cancel.set()
        timer = threading.Timer(GRACE_S, _interrupt)
        timer.daemon = True
        timer.start()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stoppable and self.cancel.is_set():
            self._stoppable = False
            raise Stopped


def _interrupt() -> None:
    """Wake the main thread, also where it waits for tiles."""
    if hasattr(signal, "pthread_kill") and (main_thread := threading.main_thread().ident) is not None:
        signal.pthread_kill(main_thread, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


def explain(error: BaseException) -> dict[str, str]:
    """An error in words that say what to do."""
    import traceback

    from pydantic import ValidationError

    from qwenvl.errors import QwenVLError
    from workflows.errors import WorkflowError
    from wsi.errors import SlideError
    from wsi.limits import limit_of

    if isinstance(error, ValidationError):
        parts = (str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        return {"kind": "ValidationError", "message": "; ".join(parts)}
    kind, message = type(error).__name__, str(error)
    if (limit := limit_of(error)) is not None:
        return {"kind": "LimitError", "message": limit}
    if "out of memory" in message.lower() or isinstance(error, MemoryError):
        message = (
            f"Memory ran out: {message.splitlines()[0] if message else kind}. Finished tiles are kept. Choose a "
            "smaller model or tile size, or dtype bfloat16, and press Run to go on."
        )
    elif not isinstance(error, (QwenVLError, WorkflowError, SlideError, OSError)):
        where = traceback.extract_tb(error.__traceback__)
        last = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
        message = f"{kind}: {message}{last}. Finished tiles are kept; press Run to go on."
        traceback.print_exception(error)
    return {"kind": kind, "message": message}


def _options(wanted: Mapping[str, Any]) -> RunOptions:
    from workflows.run.options import RunOptions

    adapter = wanted.get("adapter")
    return RunOptions(**(dict(wanted) | {"adapter": None if adapter is None else Path(adapter)}))


def main() -> None:
    """Speak over the standard streams; what libraries print goes to the error stream."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(event: str, **facts: object) -> None:
        with lock:
            try:
                print(json.dumps({"is": event, **facts}), file=out, flush=True)
            except BrokenPipeError:
                os._exit(0)  # the viewer is gone; every finished batch is stored

    child = Child(send)
    from wsi.errors import LimitError
    from wsi.threads import start_thread

    try:
        start_thread(child.listen, iter(sys.stdin.readline, ""))
    except LimitError as error:
        sys.exit(str(error))
    child.work()


if __name__ == "__main__":
    main()
