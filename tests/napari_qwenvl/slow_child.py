"""The model's process with an engine that takes a minute per batch after the first: `python -m slow_child`.

SLOW_CHILD=held keeps signals away meanwhile, as one long computation in C does.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from napari_qwenvl.process import child as _child
from qwenvl.engines.fake import FakeEngine
from workflows.run import options as run_options

LONG_S = 60.0


class Slow(FakeEngine):
    """Answers the first batch at once."""

    def __init__(self) -> None:
        super().__init__(2, batch=1)
        self.asked = 0

    def answer(self, pictures: Any, request: Any) -> Any:
        self.asked += 1
        if self.asked > 1:
            held = {signal.SIGINT} if os.environ["SLOW_CHILD"] == "held" else set()
            signal.pthread_sigmask(signal.SIG_BLOCK, held)
            time.sleep(LONG_S)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        return super().answer(pictures, request)


def load_engine(options: Any) -> Any:
    """In place of the one that loads a model."""
    return Slow(), {}


if __name__ == "__main__":
    run_options.load_engine = load_engine
    _child.main()
