"""Merged objects: the same whatever is read at a time, and also while the run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_helpers import MemorySlide, request_of

from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from workflows.merge import merged
from workflows.merge.merged import iter_merged
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore


@pytest.fixture
def run(tmp_path: Path) -> Path:
    request = request_of(Task.DETECT, tile_size=224, overlap=96)
    engine = FakeEngine(boxes=30, side=60)
    run_slide(MemorySlide(1500, 1100), request, engine, tmp_path / "run", mask="all", overview=False)
    return tmp_path / "run"


def rows(store: RunStore) -> list[tuple[float, ...]]:
    chunks = list(iter_merged(store))
    return sorted(
        (tile, item, label, *box, score)
        for chunk in chunks
        for tile, item, label, box, score in zip(
            chunk.tile.tolist(),
            chunk.item.tolist(),
            chunk.label.tolist(),
            chunk.box.tolist(),
            chunk.score.tolist(),
            strict=True,
        )
    )


def test_how_much_is_read_at_a_time_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunStore.open(run) as store:
        monkeypatch.setattr(merged, "_PART", 10**9)
        whole = rows(store)
        assert 0 < len(whole) < len(store.objects()), "something was merged"
        for part in (1, 77, 1000):
            monkeypatch.setattr(merged, "_PART", part)
            assert rows(store) == whole


def test_what_stands_for_others_is_a_stored_object(run: Path) -> None:
    with RunStore.open(run) as store:
        stored = store.objects()
        known = {(tile, item): row for row, (tile, item) in enumerate(zip(stored.tile, stored.item, strict=True))}
        for chunk in iter_merged(store):
            at = [known[key] for key in zip(chunk.tile, chunk.item, strict=True)]
            np.testing.assert_array_equal(chunk.label, stored.label[at])
            assert (chunk.box[:, :2] <= stored.box[at][:, :2]).all(), "a merged box holds the one that stands for it"
            assert (chunk.box[:, 2:] >= stored.box[at][:, 2:]).all()


def test_a_run_without_objects_has_none(detect: Request, tmp_path: Path) -> None:
    run_slide(MemorySlide(), detect, FakeEngine(boxes=0), tmp_path / "run", mask="all", overview=False)
    with RunStore.open(tmp_path / "run") as store:
        assert list(iter_merged(store)) == []
