"""Fixtures of the tests of runs."""

from __future__ import annotations

import pytest
from run_helpers import MemorySlide

from qwenvl.request import Request, Task


@pytest.fixture
def slide() -> MemorySlide:
    return MemorySlide()


@pytest.fixture
def detect() -> Request:
    return Request(task=Task.DETECT, labels=("tumour", "lymphocyte"), tile_size=224, overlap=32, mpp=0.5)
