"""Runs over real slides, with an engine without a model: reading, storing, merging, report and exports."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from workflows.export import export_geojson
from workflows.report.report import Report
from workflows.run.slide import finish_run, run_slide
from workflows.store.run_store import RunStore

pytestmark = pytest.mark.real


def test_a_real_slide_end_to_end(real_data: Path, tmp_path: Path) -> None:
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    request = Request(task=Task.DETECT, labels=("nucleus",), mpp=0.499, tile_size=448, overlap=64)
    result = run_slide(slide, request, FakeEngine(boxes=5), tmp_path / "run")
    assert result.complete
    report = result.report
    assert report.slide.mpp_source == "file"
    assert report.slide.mpp == pytest.approx(0.499)
    assert 0.2 < report.mask.tissue_fraction <= 1
    assert report.results.total > 50  # type: ignore[union-attr]
    schema = json.loads((Path(__file__).parents[2] / "docs/schema/report-1.json").read_text())
    Draft202012Validator(schema).validate(json.loads((tmp_path / "run" / "report.json").read_text()))
    assert export_geojson(tmp_path / "run", tmp_path / "x.geojson") == report.results.total  # type: ignore[union-attr]
    picture = cv2.imread(str(tmp_path / "run" / "overview.png"))
    assert picture.shape[0] == 2048
    (tmp_path / "run" / "overview.png").unlink()
    assert finish_run(tmp_path / "run").result() == report.result()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "run" / "overview.png")), picture)


def test_a_corrupt_tile_fails_and_the_run_goes_on(real_data: Path, tmp_path: Path) -> None:
    slide = real_data / "slides" / "tiny_unreadable_tile.svs"
    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=32, overlap=0, mpp=0.25)
    result = run_slide(slide, request, FakeEngine(boxes=2), tmp_path / "run", slide_mpp=0.5)
    assert not result.complete
    assert result.report.tiles.counts.failed > 0
    assert result.report.tiles.failed[0].reason
    assert any("failed" in warning for warning in result.report.warnings)
    assert Report.read(tmp_path / "run") == result.report
    with RunStore.open(tmp_path / "run") as store:
        assert len(store.objects()) == 2 * result.report.tiles.counts.ok
