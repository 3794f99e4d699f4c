"""Shared by the tests of the model side: one thread, tiny checkpoints of every family, pictures, a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from server import SERVED, STUB, ServerProcess

from qwenvl.engines.remote import RemoteEngine


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures() -> list[NDArray[np.uint8]]:
    """Blocky noise of four sizes, two of them equal; the third is resized by every family."""
    rng = np.random.default_rng(7)
    sizes = ((224, 224), (224, 224), (100, 300), (448, 224))
    return [
        rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        .repeat(8, axis=0)
        .repeat(8, axis=1)[:height, :width]
        .copy()
        for height, width in sizes
    ]


@pytest.fixture(scope="session")
def server(tiny: Callable[[str], Path]) -> Iterator[ServerProcess]:
    """One process with the tiny checkpoints and the stub."""
    process = ServerProcess({STUB: None, **{family: tiny(family) for family in SERVED}})
    yield process
    process.stop()


@pytest.fixture
def connect(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes engines, impatient ones unless told otherwise, and closes them."""
    monkeypatch.delenv("QWENVL_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.control()
    engines: list[RemoteEngine] = []

    def make(model: str | None = STUB, url: str = server.url, **settings: Any) -> RemoteEngine:
        engines.append(RemoteEngine(url, model=model, **{"backoff": 0.01, "timeout": 20.0} | settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def many() -> list[NDArray[np.uint8]]:
    """Twenty small pictures, all different."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
