"""Exports: what QuPath and a spreadsheet read out of them is what the model answered."""

from __future__ import annotations

import csv
import gzip
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from qupath_reader import read_objects
from run_helpers import MemorySlide, request_of
from test_report import Scripted

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.errors import ExportError, ExportExistsError, RunNotFoundError
from workflows.export import export_geojson, export_objects_csv, export_tiles_csv
from workflows.export.objects import namer
from workflows.merge.merged import iter_merged
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore


def four_tiles(task: Task, answers: list[Answer], out: Path, slide: MemorySlide | None = None) -> Path:
    request = request_of(task, tile_size=200, overlap=0, mpp=None)
    run_slide(slide or MemorySlide(400, 400), request, Scripted(*answers), out, mask="all", overview=False)
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", ["x.geojson", "x.geojson.gz", "x.json"])
def test_objects_become_detections(name: str, detect, tmp_path: Path) -> None:
    run_slide(MemorySlide(), detect, FakeEngine(boxes=20), tmp_path / "run", mask="all", overview=False)
    number = export_geojson(tmp_path / "run", tmp_path / name)
    found = read_objects(tmp_path / name)
    with RunStore.open(tmp_path / "run") as store:
        labels = store.labels
        chunks = list(iter_merged(store))
    expected = sorted(
        (labels[label], *np.round(box, 2), score)
        for chunk in chunks
        for label, box, score in zip(chunk.label, chunk.box, chunk.score, strict=True)
    )
    assert number == len(found) == len(expected) > 100
    assert {of.kind for of in found} == {"detection"}
    assert len({of.id for of in found}) == len(found)
    read = sorted((of.path_class, *of.bounds, of.measurements["score"]) for of in found)
    for one, other in zip(read, expected, strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:])
    assert len({of.colour for of in found}) == 2


def test_points_attributes_and_missing_scores(tmp_path: Path) -> None:
    objects = (
        TileObject("mitosis", point=(10, 20), attributes={"phase": "ana", "n": 3, "list": [1]}),
        TileObject('odd "label" <b>', point=(100, 150), score=0.25),
    )
    answers = [Answer(Status.OK, objects), *[Answer(Status.EMPTY)] * 3]
    four_tiles(Task.POINT, answers, tmp_path / "run")
    assert export_geojson(tmp_path / "run", tmp_path / "x.geojson") == 2
    first, second = read_objects(tmp_path / "x.geojson")
    assert first.geometry["coordinates"] == [10, 20]
    assert first.measurements == {}
    assert first.metadata == {"tile": "0", "item": "0", "phase": "ana", "n": "3", "list": "[1]"}
    assert second.path_class == 'odd "label" <b>'
    assert second.measurements == {"score": 0.25}


def test_boxes_without_area_stay_valid(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, (TileObject("a", box=(5, 5, 5, 9)),)), *[Answer(Status.EMPTY)] * 3]
    four_tiles(Task.DETECT, answers, tmp_path / "run")
    export_geojson(tmp_path / "run", tmp_path / "x.geojson")
    assert read_objects(tmp_path / "x.geojson")[0].bounds == pytest.approx((5, 5, 5.01, 9))


def test_tiles_carry_numbers_words_and_failures(tmp_path: Path) -> None:
    scores = [{"tumour": 0.7, "stroma": 0.2, "necrosis": 0.1}, {"tumour": 0.1, "stroma": 0.9, "necrosis": 0.0}]
    answers = [Answer(Status.OK, text=max(of, key=lambda k: of[k]), scores=of) for of in scores]
    answers += [Answer.failure("no pixels"), Answer(Status.REFUSED, text="I cannot.")]
    four_tiles(Task.CLASSIFY, answers, tmp_path / "run")
    assert export_geojson(tmp_path / "run", tmp_path / "x.geojson") == 4
    tumour, stroma, failed, refused = read_objects(tmp_path / "x.geojson")
    assert {of.kind for of in (tumour, stroma, failed, refused)} == {"tile"}
    assert (tumour.path_class, stroma.path_class) == ("tumour", "stroma")
    assert tumour.measurements == {"tumour": 0.7, "stroma": 0.2, "necrosis": 0.1, "tissue": 1.0}
    assert tumour.bounds == (0, 0, 200, 200)
    assert (failed.path_class, failed.metadata["error"]) == ("Failed", "no pixels")
    assert failed.measurements == {"tissue": 1.0}, "a failed tile has no probability"
    assert refused.path_class is None
    assert refused.metadata == {"status": "refused", "text": "I cannot."}
    values = [Answer(Status.OK, value={"grade": 2, "why": "x"}), *[Answer(Status.EMPTY)] * 3]
    four_tiles(Task.EXTRACT, values, tmp_path / "b")
    export_geojson(tmp_path / "b", tmp_path / "b.geojson")
    assert read_objects(tmp_path / "b.geojson")[0].metadata == {"status": "ok", "value.grade": "2", "value.why": "x"}


def test_tiles_can_go_with_objects(detect, tmp_path: Path) -> None:
    run_slide(MemorySlide(), detect, FakeEngine(boxes=1), tmp_path / "run", mask="all", overview=False)
    export_geojson(tmp_path / "run", tmp_path / "x.geojson", tiles=True)
    assert {of.kind for of in read_objects(tmp_path / "x.geojson")} == {"tile", "detection"}


def test_planes_of_stacks_are_named(detect, tmp_path: Path) -> None:
    slide = MemorySlide()
    slide.options = {"plane": "z=3,t=1"}  # type: ignore[attr-defined]
    run_slide(slide, detect, FakeEngine(boxes=1), tmp_path / "run", mask="all", overview=False)
    export_geojson(tmp_path / "run", tmp_path / "x.geojson")
    assert {of.plane for of in read_objects(tmp_path / "x.geojson")} == {(-1, 3, 1)}


def test_the_same_run_gives_the_same_bytes(detect, tmp_path: Path) -> None:
    for run in ("a", "b"):
        engine = FakeEngine(boxes=5, batch=1 if run == "a" else 50)
        run_slide(MemorySlide(), detect, engine, tmp_path / run, mask="all", overview=False)
        export_geojson(tmp_path / run, tmp_path / f"{run}.geojson.gz")
    assert (tmp_path / "a.geojson.gz").read_bytes() == (tmp_path / "b.geojson.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.geojson.gz").read_bytes()).endswith(b"]}\n")


def test_ids_are_version_5_uuids() -> None:
    space = uuid.uuid4()
    assert namer(space)("12/3") == str(uuid.uuid5(space, "12/3"))


def test_nothing_is_overwritten_or_left_half_written(detect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_slide(MemorySlide(), detect, FakeEngine(boxes=1), tmp_path / "run", mask="all", overview=False)
    out = tmp_path / "x.geojson"
    out.write_text("mine")
    with pytest.raises(ExportExistsError, match="exists already"):
        export_geojson(tmp_path / "run", out)
    assert out.read_text() == "mine"
    monkeypatch.setattr("workflows.export.geojson._object_features", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_geojson(tmp_path / "run", out, overwrite=True)
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.lock", "run", "x.geojson"]
    monkeypatch.undo()
    export_geojson(tmp_path / "run", out, overwrite=True)
    assert json.loads(out.read_text())["type"] == "FeatureCollection"
    for wrong in (tmp_path / "x.txt", tmp_path / "missing" / "x.geojson"):
        with pytest.raises(ExportError):
            export_geojson(tmp_path / "run", wrong)
    with pytest.raises(RunNotFoundError):
        export_geojson(tmp_path / "nowhere", tmp_path / "y.geojson")


@pytest.mark.parametrize("mpp", [0.5, None])
def test_objects_table(mpp: float | None, tmp_path: Path) -> None:
    objects = (TileObject("tumour", box=(10, 20, 30, 40), score=0.5), TileObject("=1+1", box=(50, 60, 80, 90)))
    answers = [Answer(Status.EMPTY), Answer(Status.OK, objects), *[Answer(Status.EMPTY)] * 2]
    four_tiles(Task.DETECT, answers, tmp_path / "run", MemorySlide(400, 400, mpp))
    assert export_objects_csv(tmp_path / "run", tmp_path / "x.csv") == 2
    first, second = rows_of(tmp_path / "x.csv")
    assert (first["tile"], first["label"], first["kind"], first["score"]) == ("1", "tumour", "box", "0.5")
    assert [float(first[f"{edge}_px"]) for edge in ("x_min", "y_min", "x_max", "y_max")] == [210, 20, 230, 40]
    assert ("x_min_um" in first) == (mpp is not None)
    if mpp:
        assert [float(first[f"{edge}_um"]) for edge in ("x_min", "y_max")] == [105, 20]
    assert second["label"] == "'=1+1", "a spreadsheet must not run what a model wrote"
    assert second["score"] == ""


def test_tiles_table_has_every_tile(tmp_path: Path) -> None:
    request = request_of(Task.SCORE, tile_size=200, overlap=0, mpp=None)
    answers = [Answer(Status.OK, scores={"yes": 0.25}, notes=("a", "b")), Answer.failure("no pixels, sorry")]
    run_slide(MemorySlide(400, 400), request, Scripted(*answers), tmp_path / "run", mask="all", overview=False, limit=2)
    assert export_tiles_csv(tmp_path / "run", tmp_path / "x.csv.gz") == 4
    with gzip.open(tmp_path / "x.csv.gz", "rt", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["ok", "failed", "pending", "pending"]
    assert [row["yes"] for row in rows] == ["0.25", "", "", ""]
    assert rows[0]["notes"] == "a b"
    assert rows[1]["error"] == "no pixels, sorry"
    assert (rows[3]["x0_px"], rows[3]["y0_um"]) == ("200", "100.000")


def test_the_reader_accepts_a_file_of_qupath_itself(real_data: Path) -> None:
    found = read_objects(real_data / "annotations" / "qupath05.geojson")
    assert {of.kind for of in found} == {"annotation"}
