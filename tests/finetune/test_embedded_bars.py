"""The embedded model keeps to its bars on a part of the benchmark's fields and pictures, with a margin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LEAST = {
    "synthetic nuclei, F1 at IoU 0.5": 0.84,
    "same, all five classes asked by name": 0.84,
    "class accuracy of matched nuclei": 0.93,
    "tissue class accuracy": 0.9,
    "yes/no AUROC": 0.93,
    "scores of boxes, right against wrong, AUROC": 0.82,
    "mean score less share of right boxes": -0.15,
}
MOST = {"count, mean absolute error": 1.3, "mean score less share of right boxes": 0.1}


@pytest.fixture(scope="module")
def benchmark(benchmark_script: Callable[[str], Any]) -> Any:
    return benchmark_script("default_model")


@pytest.mark.slow
def test_fields(benchmark: Any) -> None:
    asker = benchmark.Asker("embedded")
    measures, _ = benchmark.measure_fields(asker, 1, 40)
    found = {measure.name: measure.mean for measure in measures}
    assert set(found) == LEAST.keys() | MOST.keys()
    for name, value in found.items():
        assert value >= LEAST.get(name, -np.inf), name
        assert value <= MOST.get(name, np.inf), name
    assert len(asker.statuses) == 80
    assert np.mean(benchmark.parsed(asker.statuses)) >= 0.975
    assert np.mean(benchmark.parsed(asker.free_statuses)) >= 0.9


@pytest.mark.slow
def test_real_tissue(benchmark: Any, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENVL_TEST_DATA", str(real_data))
    asker = benchmark.Asker("embedded")
    (measure,), _ = benchmark.measure_real(asker, 1, 6)
    assert measure.mean >= 0.5
    assert np.mean(benchmark.parsed(asker.statuses)) >= 0.95
