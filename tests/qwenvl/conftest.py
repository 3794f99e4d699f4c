"""Shared by the tests of the model side: one thread, tiny checkpoints of every family, pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenvl.testing import tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of floats do not depend on the machine's cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny checkpoint by family name, built once. Nobody may change it."""
    root = tmp_path_factory.mktemp("tiny")

    def build(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else tiny_checkpoint(family, folder)

    return build


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
