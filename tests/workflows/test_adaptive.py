"""Splitting in a run: crowded, truncated and looping tiles are asked again in parts, and nothing is counted twice."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from dots import DotEngine, DotSlide, boxes_of, found_once, planted
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from run_helpers import MemorySlide, request_of

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.base import Engine
from qwenvl.errors import EngineError
from qwenvl.request import _FIRST_FIELDS, Task
from workflows.export import export_geojson, export_tiles_csv
from workflows.report.report import Report, report_schema
from workflows.run.slide import finish_run, run_slide
from workflows.store.folder import JOURNAL
from workflows.store.run_store import RunStore
from workflows.store.schema import SPLIT_VERSION, VERSION


def ask(out: Path, slide: MemorySlide, engine: Engine, **fields: object) -> Report:
    request = request_of(Task.DETECT, **{"labels": ("dot",), "tile_size": 256, "overlap": 64, **fields})
    return run_slide(slide, request, engine, out, mask="all", overview=False).report


@pytest.mark.parametrize("seed", range(4))
def test_crowded_tiles_are_split_until_every_object_is_listed_once(seed: int, tmp_path: Path) -> None:
    places = planted(480, seed)
    slide = DotSlide(places)
    once = ask(tmp_path / "once", slide, DotEngine(40), crowded=36)
    split = ask(tmp_path / "split", slide, DotEngine(40), crowded=36, split=3)
    before, _ = found_once(boxes_of(tmp_path / "once"), places)
    after, extra = found_once(boxes_of(tmp_path / "split"), places)
    assert before < 0.8 * len(places), "the plain run misses many: the test could not fail otherwise"
    assert (after, extra) == (len(places), 0)
    assert split.results.total == len(places)  # type: ignore[union-attr]
    assert once.tiles.split is None
    facts = split.tiles.split
    assert facts is not None
    assert set(facts.reasons) == {"crowded"}
    assert facts.tiles == facts.reasons["crowded"]
    assert facts.depth == 2, "enlarged 1.5-fold, then 2-fold, and no further"
    assert split.complete
    assert split.tiles.counts.ok + split.tiles.counts.empty == split.tiles.total
    assert split.tiles.total == once.tiles.total - facts.tiles + facts.children
    assert split.run.asked == once.tiles.total + facts.children
    assert split.tiles.tissue_answered == 1
    assert [scale.mpp for scale in split.tiles.scales] == sorted(scale.mpp for scale in split.tiles.scales)  # type: ignore[type-var]
    looked_at = sum(scale.tissue_px0 for scale in split.tiles.scales)
    assert looked_at == pytest.approx(slide.width * slide.height)
    assert split.results.labels[0].per_mm2 == pytest.approx(  # type: ignore[union-attr]
        len(places) / (slide.width * slide.height * 0.25e-6)
    )
    Draft202012Validator(json.loads(report_schema())).validate(json.loads(split.to_json()))
    assert any("split" in warning for warning in split.warnings)


def test_what_was_split_stays_in_the_journal(tmp_path: Path) -> None:
    slide = DotSlide(planted(220))
    ask(tmp_path / "run", slide, DotEngine(), crowded=12, split=1)
    with RunStore.open(tmp_path / "run") as store:
        parted = [tile for tile, *_ in store.splits()]
        counted = set(store.tiles()["tile"].tolist())
        assert parted
        assert not counted & set(parted)
        assert not set(store.objects().tile.tolist()) & set(parted)
        for tile in parted:
            answer = store.answer(tile)
            assert answer is not None
            assert answer.objects == 12
        assert {found.tile for found in store.iter_answers()} == counted
        assert {found.tile for found in store.changes_since(0, 10_000).answers} == counted
        assert store.status_counts()[Status.OK] + store.status_counts()[Status.EMPTY] == len(counted)
    connection = sqlite3.connect(tmp_path / "run" / JOURNAL)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SPLIT_VERSION
    rows = connection.execute("SELECT count(*) FROM objects WHERE tile = ?", (parted[0],)).fetchone()
    connection.close()
    assert rows[0] == 12
    assert export_tiles_csv(tmp_path / "run", tmp_path / "tiles.csv") == len(counted)
    assert export_geojson(tmp_path / "run", tmp_path / "run.geojson") == len(boxes_of(tmp_path / "run"))


def test_a_run_without_splits_is_a_journal_of_the_first_version(tmp_path: Path) -> None:
    ask(tmp_path / "run", DotSlide(planted(20)), DotEngine(most=100), split=2)
    connection = sqlite3.connect(tmp_path / "run" / JOURNAL)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
    connection.close()


@pytest.mark.parametrize(("reason", "finish"), [("truncated", "length"), ("loop", "loop")])
def test_truncated_and_looping_tiles_are_split(reason: str, finish: str, tmp_path: Path) -> None:
    """An engine that writes no more than 36 objects: what came before the cut is not counted twice."""

    def cut(picture: NDArray[np.uint8], seen: int) -> Answer | None:
        if seen <= 36:
            return None
        return Answer(Status.TRUNCATED, (TileObject("dot", box=(1, 1, 5, 5)),), finish_reason=finish)

    places = planted(480, 3)
    report = ask(tmp_path / "run", DotSlide(places), DotEngine(100, cut), split=3, max_objects=100, crowded=100)
    assert found_once(boxes_of(tmp_path / "run"), places) == (len(places), 0)
    assert report.tiles.split is not None
    assert set(report.tiles.split.reasons) == {reason}
    assert report.tiles.counts.truncated == 0


def test_the_depth_is_limited_and_what_stays_truncated_is_said(tmp_path: Path) -> None:
    def always(picture: NDArray[np.uint8], seen: int) -> Answer | None:
        return Answer(Status.TRUNCATED, finish_reason="loop") if seen > 3 else None

    report = ask(tmp_path / "run", DotSlide(planted(300)), DotEngine(100, always), split=1)
    assert report.tiles.split is not None
    assert report.tiles.split.depth == 1
    assert report.tiles.counts.truncated > 0
    assert report.tiles.tissue_answered < 1
    assert any("truncated" in warning for warning in report.warnings)


def test_without_split_a_full_tile_is_said(tmp_path: Path) -> None:
    report = ask(tmp_path / "run", DotSlide(planted(220)), DotEngine(most=12), max_objects=12)
    assert any("12 objects, as many as they may" in warning and "--split 1" in warning for warning in report.warnings)


def test_counts_of_children_add_up(tmp_path: Path) -> None:
    """No square lies on a seam of tiles of 256 px without overlap, or of their children and grandchildren."""
    rng = np.random.default_rng(5)
    cells = rng.choice(16 * 12, 150, replace=False)
    places = np.stack([cells % 16, cells // 16], axis=1) * 64 + rng.integers(4, 48, (150, 2))
    request = request_of(Task.COUNT, labels=("dot",), tile_size=256, overlap=0, mpp=0.5, crowded=3, split=2)
    report = run_slide(DotSlide(places, 1024, 768), request, DotEngine(), tmp_path / "run", mask="all").report
    assert report.tiles.split is not None
    assert report.tiles.split.depth == 2
    assert report.results.total == pytest.approx(len(places))  # type: ignore[union-attr]


def interrupted(
    out: Path, slide: MemorySlide, limits: Sequence[int], **fields: object
) -> tuple[Report, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []
    for limit in (*limits, None):
        engine = DotEngine(batch=random.Random(str(limit)).randint(1, 5))
        request = request_of(Task.DETECT, **{"labels": ("dot",), "tile_size": 256, "overlap": 64, **fields})
        report = run_slide(slide, request, engine, out, mask="all", overview=False, limit=limit).report
        asked += engine.asked
    return report, asked


def test_interruptions_anywhere_end_in_the_same_report(tmp_path: Path) -> None:
    slide = DotSlide(planted(220, 1))
    calm = ask(tmp_path / "calm", slide, DotEngine(), crowded=12, split=2)
    report, asked = interrupted(tmp_path / "parts", slide, (5, 1, 9, 3, 8, 2, 4, 6), crowded=12, split=2)
    assert report.result() == calm.result()
    assert len(asked) == calm.run.asked, "no tile is asked twice"
    assert finish_run(tmp_path / "parts").result() == calm.result()


def out_of_memory_above(side: int) -> Callable[[NDArray[np.uint8], int], Answer | None]:
    def trouble(picture: NDArray[np.uint8], seen: int) -> Answer | None:
        if picture.shape[1] > side:
            raise MemoryError(f"cannot hold {picture.shape[1]} px")
        return None

    return trouble


@pytest.mark.parametrize("side", [170, 90])
def test_tiles_that_do_not_fit_are_asked_in_parts_at_the_same_scale(side: int, tmp_path: Path) -> None:
    places = planted(120, 2)
    report = ask(tmp_path / "run", DotSlide(places), DotEngine(100, out_of_memory_above(side)))
    assert report.complete
    assert found_once(boxes_of(tmp_path / "run"), places) == (len(places), 0)
    assert report.tiles.split is not None
    assert report.tiles.split.reasons.keys() == {"memory"}
    assert report.tiles.split.depth == (1 if side == 170 else 2)
    assert [round(scale.mpp or 0, 2) for scale in report.tiles.scales] == [0.5]


def test_a_tile_that_never_fits_stops_the_run_and_what_is_finished_stays(tmp_path: Path) -> None:
    free = [9]

    def trouble(picture: NDArray[np.uint8], seen: int) -> Answer | None:
        free[0] -= 1
        if free[0] < 0:
            raise RuntimeError("CUDA error: out of memory")
        return None

    places = planted(60, 2)
    slide = DotSlide(places)
    with pytest.raises(EngineError, match=r"out of memory.*made smaller until \d\dx\d\d px.*Finished tiles are kept"):
        ask(tmp_path / "run", slide, DotEngine(100, trouble))
    with RunStore.open(tmp_path / "run") as store:
        assert len(store.finished()) >= 8
    report = ask(tmp_path / "run", slide, DotEngine(100))
    assert report.complete
    assert found_once(boxes_of(tmp_path / "run"), places) == (len(places), 0)


def test_memory_that_runs_out_at_random_loses_no_tile(tmp_path: Path) -> None:
    chance = random.Random(5)

    def trouble(picture: NDArray[np.uint8], seen: int) -> Answer | None:
        if picture.shape[1] > 128 and chance.random() < 0.4:
            raise MemoryError("just now")
        return None

    places = planted(120, 4)
    report = ask(tmp_path / "run", DotSlide(places), DotEngine(100, trouble))
    assert report.complete
    assert report.tiles.tissue_answered == 1
    assert found_once(boxes_of(tmp_path / "run"), places) == (len(places), 0)


def test_runs_and_reports_of_the_first_release_open_and_go_on(tmp_path: Path) -> None:
    """Their requests, manifests and reports know nothing of where to look."""
    slide, request = DotSlide(planted(60)), request_of(Task.DETECT, labels=("dot",))
    calm = run_slide(slide, request, DotEngine(100), tmp_path / "calm", mask="all", overview=False).report
    run_slide(slide, request, DotEngine(100), tmp_path / "old", mask="all", overview=False, limit=5)
    journal = sqlite3.connect(tmp_path / "old" / JOURNAL)
    manifest = json.loads(journal.execute("SELECT json FROM manifest").fetchone()[0])
    for name in set(manifest["request"]) - _FIRST_FIELDS:
        del manifest["request"][name]
    del manifest["plan"]
    journal.execute("UPDATE manifest SET json = ?", (json.dumps(manifest),))
    journal.execute("DROP TABLE checks")
    journal.commit()
    journal.close()
    result = run_slide(slide, request, DotEngine(100), tmp_path / "old", mask="all", overview=False)
    assert result.asked == calm.run.asked - 5
    assert result.report.result() == calm.result()
    document = json.loads(calm.to_json())
    document["schema_version"] = "1.0"
    for name in ("plan", "cascade"):
        del document[name]
    del document["tiles"]["scales"], document["tiles"]["split"], document["run"]["cascade"]
    del document["tiles"]["counts"]["skipped"]
    document["request"] = manifest["request"]
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert Report.read(tmp_path / "report.json").request == request
