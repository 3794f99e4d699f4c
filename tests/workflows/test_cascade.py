"""The cascade: asked only where coarse tiles say so, nothing left out is called negative, and every stage resumes."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dots import DotEngine, DotSlide, boxes_of, found_once, planted
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from run_helpers import request_of

from qwenvl.answer import Answer, Status
from qwenvl.request import Request, Task, Where
from workflows.errors import RunMismatchError, StoreCorruptError, StoreError, WorkflowError
from workflows.export import export_tiles_csv
from workflows.report.images.heatmap import read_heatmap
from workflows.report.report import Report, report_schema
from workflows.run.plan.cascade import coarse_request, highest_score
from workflows.run.plan.thresholds import thresholds
from workflows.run.slide import RunResult, finish_run, plan_run, run_slide
from workflows.store.folder import JOURNAL
from workflows.store.run_store import RunStore
from wsi.errors import AnnotationError

WHERE = Where(question="Are there squares?", mpp=1.0, tile_size=128, threshold=0.4)


def asked(**fields: object) -> Request:
    return request_of(Task.DETECT, **{"labels": ("dot",), "tile_size": 128, "overlap": 32, "where": WHERE, **fields})


def look(out: Path, slide: DotSlide, engine: DotEngine | None = None, **options: object) -> RunResult:
    request = options.pop("request", None) or asked()
    return run_slide(slide, request, engine or DotEngine(100), out, mask="all", overview=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def slide() -> DotSlide:
    """Squares on the left third of the slide only."""
    places = planted(120, 7)
    return DotSlide(places[places[:, 0] < 330])


def test_only_what_coarse_tiles_let_pass_is_asked(slide: DotSlide, tmp_path: Path) -> None:
    engine = DotEngine(100)
    report = look(tmp_path / "run", slide, engine).report
    everywhere = look(tmp_path / "all", slide, request=asked(where=None)).report
    found = boxes_of(tmp_path / "run")
    assert found_once(found, slide.places) == (len(slide.places), 0)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(boxes_of(tmp_path / "all"), axis=0))
    cascade, counts = report.cascade, report.tiles.counts
    assert cascade is not None
    assert cascade.decided
    assert cascade.unknown == 0
    assert 0 < cascade.passed <= cascade.scored / 2
    assert cascade.tiles == everywhere.tiles.total == report.tiles.total
    assert cascade.skipped == counts.skipped > 0.4 * report.tiles.total
    assert counts.pending == counts.failed == 0
    assert report.complete
    assert len(engine.asked) == cascade.scored + report.tiles.total - cascade.skipped
    assert report.tiles.tissue_answered == pytest.approx(1 - cascade.tissue_skipped)
    assert report.provenance.grid_hash == everywhere.provenance.grid_hash
    assert report.provenance.run_id != everywhere.provenance.run_id
    Draft202012Validator(json.loads(report_schema())).validate(json.loads(report.to_json()))


def test_what_is_left_out_is_unknown_and_no_density_counts_it(slide: DotSlide, tmp_path: Path) -> None:
    report = look(tmp_path / "run", slide).report
    looked_at = (1 - report.cascade.tissue_skipped) * slide.width * slide.height * 0.25e-6  # type: ignore[union-attr]
    assert report.results.labels[0].per_mm2 == pytest.approx(len(slide.places) / looked_at)  # type: ignore[union-attr]
    assert any("unknown, not negative" in warning for warning in report.warnings)
    heatmap = read_heatmap(tmp_path / "run")
    width = heatmap.cell0[0]
    far = heatmap.values[0][:, int(600 / width) :]
    assert np.isnan(far).all(), "nothing is known of the right side"
    assert np.isfinite(heatmap.values[0][:, : int(300 / width)]).all()
    export_tiles_csv(tmp_path / "run", tmp_path / "tiles.csv")
    lines = (tmp_path / "tiles.csv").read_text().splitlines()
    assert sum(",skipped," in line for line in lines) == report.tiles.counts.skipped
    assert not any(",pending," in line for line in lines)


def test_the_coarse_tiles_are_a_run_with_a_heatmap_of_their_own(slide: DotSlide, tmp_path: Path) -> None:
    report = look(tmp_path / "run", slide).report
    coarse = Report.read(tmp_path / "run" / "where")
    assert coarse.request == coarse_request(report.request)
    assert coarse.complete
    assert read_heatmap(tmp_path / "run" / "where").unit == "probability"
    effort, scored = report.run.cascade, report.cascade.scored  # type: ignore[union-attr]
    assert effort is not None
    assert (effort.asked, effort.prompt_tokens, effort.new_tokens) == (scored, 20 * scored, 0)
    assert effort.seconds == pytest.approx(0.1 * scored)
    skipped = report.tiles.counts.skipped
    assert (effort.saved_tiles, effort.saved_prompt_tokens) == (skipped, 50 * skipped)
    assert effort.saved_seconds == pytest.approx(skipped)


def test_classes_decide_as_well(slide: DotSlide, tmp_path: Path) -> None:
    where = Where(labels=("full", "empty"), wanted=("full",), mpp=1.0, tile_size=128, threshold=0.2)
    report = look(tmp_path / "run", slide, request=asked(where=where)).report
    assert found_once(boxes_of(tmp_path / "run"), slide.places) == (len(slide.places), 0)
    assert report.cascade is not None
    assert report.cascade.wanted == ("full",)
    assert report.cascade.skipped > 0


def test_coarse_tiles_that_fail_leave_their_place_to_be_looked_at(slide: DotSlide, tmp_path: Path) -> None:
    class Engine(DotEngine):
        def answer(self, pictures: Sequence[NDArray[np.uint8]], request: Request) -> list[Answer]:
            if request.task is Task.SCORE:
                return [Answer.failure("no coarse answer") for _ in pictures]
            return super().answer(pictures, request)

    engine = Engine(100)
    report = look(tmp_path / "run", slide, engine).report
    coarse = Report.read(tmp_path / "run" / "where")
    assert coarse.tiles.counts.failed == coarse.tiles.total
    assert report.cascade is not None
    assert (report.cascade.scored, report.cascade.unknown) == (0, coarse.tiles.total)
    assert report.cascade.skipped == report.tiles.counts.skipped == 0


def test_a_stop_among_coarse_tiles_decides_nothing(slide: DotSlide, tmp_path: Path) -> None:
    calm = look(tmp_path / "calm", slide).report
    report = look(tmp_path / "run", slide, limit=3).report
    assert not report.complete
    assert report.cascade is not None
    assert not report.cascade.decided
    assert report.tiles.counts.pending == report.tiles.total
    assert any("not all asked yet" in warning for warning in report.warnings)
    stop = threading.Event()
    stop.set()
    assert look(tmp_path / "run", slide, cancel=stop).cancelled
    engines = [DotEngine(100, batch=batch) for batch in (1, 3, 5, 2)]
    for engine, limit in zip(engines, (1, 25, 7, None), strict=True):
        report = look(tmp_path / "run", slide, engine, limit=limit).report
    assert report.result() == calm.result()
    assert 3 + sum(len(engine.asked) for engine in engines) == calm.run.asked + calm.run.cascade.asked  # type: ignore[union-attr]
    assert finish_run(tmp_path / "run").result() == calm.result()


def test_another_threshold_is_another_run(slide: DotSlide, tmp_path: Path) -> None:
    look(tmp_path / "run", slide)
    other = asked(where=WHERE.model_copy(update={"threshold": 0.9}))
    with pytest.raises(RunMismatchError, match="request"):
        look(tmp_path / "run", slide, request=other)
    result = look(tmp_path / "run", slide, request=other, overwrite=True)
    assert result.backup is not None
    assert (result.backup / "where" / "report.json").is_file()


def test_a_decision_is_made_once_and_never_against_an_answer(slide: DotSlide, tmp_path: Path) -> None:
    look(tmp_path / "run", slide)
    with RunStore.open(tmp_path / "run", readonly=False) as store:
        gate = store.gate()
        assert gate is not None
        with pytest.raises(StoreError, match="decided already"):
            store.decide(gate, {})
    look(tmp_path / "plain", slide, request=asked(where=None))
    with RunStore.open(tmp_path / "plain", readonly=False) as store, pytest.raises(StoreError, match="have an answer"):
        store.decide(gate, {0: 0.1})


def test_with_splits_and_within_a_cascade_every_square_is_found_once(tmp_path: Path) -> None:
    slide = DotSlide(planted(200, 8))
    report = look(tmp_path / "run", slide, DotEngine(8), request=asked(split=3, crowded=8)).report
    assert report.tiles.split is not None
    assert report.tiles.counts.skipped > 0
    left = found_once(boxes_of(tmp_path / "run"), slide.places)
    assert left[1] == 0
    assert left[0] >= 0.9 * len(slide.places)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("splits", "UPDATE splits SET tile = tile + 1 WHERE tile = (SELECT max(tile) FROM splits)"),
        ("skipped", "UPDATE skipped SET score = score / 2 WHERE tile = (SELECT min(tile) FROM skipped)"),
        ("gate", "UPDATE gate SET json = replace(json, '0.', '1.')"),
    ],
)
def test_what_splits_and_gates_decided_has_checksums(tmp_path: Path, table: str, change: str) -> None:
    folder = tmp_path / "run"
    look(folder, DotSlide(planted(200, 8)), DotEngine(8), request=asked(split=3, crowded=8))
    with RunStore.open(folder) as store:
        store.verify()
    with sqlite3.connect(folder / JOURNAL) as journal:
        assert journal.execute(change).rowcount == 1
    journal.close()
    with pytest.raises(StoreCorruptError, match=f"its {table} are not what was stored"):
        RunStore.open(folder, readonly=False)


def test_the_estimate_speaks_of_both_stages(slide: DotSlide) -> None:
    estimate = plan_run(slide, asked(), DotEngine(100), mask="all")
    assert estimate.where is not None
    lines = list(estimate.lines())
    assert lines[0].startswith(f"coarse tiles: {estimate.where.tiles} at 1 um/px")
    assert f"tiles: {estimate.tiles} at 0.5 um/px at most" in " ".join(lines)


@given(st.data())
def test_the_highest_score_is_that_of_every_place_a_tile_owns(data: st.DataObject) -> None:
    side = data.draw(st.integers(3, 20))
    n = data.draw(st.integers(1, 6))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, np.nan]), min_size=n * n, max_size=n * n)))
    x, y = (axis.ravel() * side for axis in np.meshgrid(np.arange(n), np.arange(n)))
    coarse = np.stack([x, y, x + side, y + side], axis=1)
    x0, y0 = data.draw(st.tuples(*[st.integers(0, n * side + 5)] * 2))
    w, h = data.draw(st.tuples(*[st.integers(1, 30)] * 2))
    inside = (coarse[:, 0] < x0 + w) & (coarse[:, 2] > x0) & (coarse[:, 1] < y0 + h) & (coarse[:, 3] > y0)
    expected = np.nanmax(np.where(np.isnan(scores), np.inf, scores)[inside]) if inside.any() else np.inf
    assert highest_score(np.array([[x0, y0, x0 + w, y0 + h]]), coarse, scores)[0] == expected


def geojson(path: Path, *features: tuple[str, str, list[list[float]]]) -> Path:
    content = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": kind, "classification": {"name": name}},
        }
        for kind, name, ring in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": content}))
    return path


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_thresholds_trade_recall_for_work(slide: DotSlide, tmp_path: Path) -> None:
    look(tmp_path / "run", slide)
    dots = geojson(tmp_path / "d.geojson", *(("detection", "dot", square(x, y, 12)) for x, y in slide.places.tolist()))
    rows = thresholds(tmp_path / "run", dots, label="dot", steps=(0.0, 0.4, 0.9, 1.0))
    assert [row.threshold for row in rows] == [0.0, 0.4, 0.9, 1.0]
    assert (rows[0].recall, rows[0].work) == (1, 1)
    assert rows[1].recall == 1
    report = Report.read(tmp_path / "run")
    assert rows[1].tiles == report.tiles.total - report.tiles.counts.skipped
    assert all(a.recall >= b.recall and a.work >= b.work for a, b in pairwise(rows))
    region = geojson(
        tmp_path / "r.geojson", ("annotation", "left", square(0, 0, 200)), ("annotation", "x", square(800, 500, 100))
    )
    half = thresholds(tmp_path / "run", region, steps=(0.4,))[0]
    assert half.recall == pytest.approx(0.8, abs=0.01), "the part on the left is looked at, the other is not"
    alone = thresholds(tmp_path / "run" / "where", region, label="left", steps=(0.4,))[0]
    assert alone.recall == 1


def test_thresholds_name_what_is_missing(slide: DotSlide, tmp_path: Path) -> None:
    region = geojson(tmp_path / "r.geojson", ("annotation", "left", square(0, 0, 200)))
    look(tmp_path / "run", slide)
    with pytest.raises(AnnotationError, match="nothing of class 'right'"):
        thresholds(tmp_path / "run", region, label="right")
    with pytest.raises(AnnotationError, match="There is no GeoJSON"):
        thresholds(tmp_path / "run", tmp_path / "none.geojson")
    look(tmp_path / "plain", slide, request=asked(where=None))
    with pytest.raises(WorkflowError, match="give a run of score or classify"):
        thresholds(tmp_path / "plain", region)
    look(tmp_path / "classes", slide, request=request_of(Task.CLASSIFY, labels=("full", "empty")))
    with pytest.raises(WorkflowError, match="--wanted"):
        thresholds(tmp_path / "classes", region)
    assert thresholds(tmp_path / "classes", region, wanted=("full",), steps=(0.0,))[0].recall == 1


def test_an_answer_of_a_skipped_tile_is_refused_nowhere_else(slide: DotSlide, tmp_path: Path) -> None:
    report = look(tmp_path / "run", slide).report
    with RunStore.open(tmp_path / "run") as store:
        skipped = store.skipped()
        assert set(skipped) & set(store.finished().tolist()) == set()
        assert len(skipped) + len(store.finished()) == report.tiles.total
        assert max(skipped.values()) < 0.4
        assert store.status_counts()[Status.FAILED] == 0
