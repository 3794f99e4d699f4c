"""The report: strict JSON after a published schema, with numbers that were known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from run_helpers import MemorySlide, request_of

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.checkpoints.training_domain import TrainedOn
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request, Task
from workflows.errors import RunNotFoundError, StoreVersionError
from workflows.report.report import Report, report_schema
from workflows.run.slide import run_slide

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "report-1.json"


class Scripted(Engine):
    """Gives the answers it was handed, tile by tile in reading order."""

    def __init__(self, *answers: Answer, warning: str | None = None) -> None:
        self.info = ModelInfo("scripted", "none", "sha256:0", warning=warning)
        self._answers = iter(answers)

    def answer(self, pictures: list[np.ndarray], request: Request) -> list[Answer]:
        return [next(self._answers) for _ in pictures]


def four_tiles(task: Task, answers: list[Answer], out: Path, mpp: float | None = 0.5, **fields: object) -> Report:
    """A slide of exactly 2 x 2 tiles of 200 px that do not overlap."""
    request = request_of(task, **{"tile_size": 200, "overlap": 0, "mpp": None, **fields})
    slide = MemorySlide(400, 400, mpp)
    return run_slide(slide, request, Scripted(*answers), out, mask="all", overview=False).report


def box(label: str, x: float, y: float, score: float | None = None) -> TileObject:
    return TileObject(label, box=(x, y, x + 20, y + 20), score=score)


MM2 = (200 * 0.5e-3) ** 2
"""One tile of the four."""


def test_the_published_schema_is_the_one_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == report_schema(), (
        "docs/schema/report-1.json is stale: write workflows.report.report.report_schema() to it"
    )
    Draft202012Validator.check_schema(json.loads(report_schema()))


@pytest.mark.parametrize("mpp", [0.5, None])
@pytest.mark.parametrize("task", list(Task))
def test_reports_of_every_task_fit_the_schema(task: Task, mpp: float | None, tmp_path: Path) -> None:
    request = request_of(task, mpp=None)
    slide = MemorySlide(400, 400, mpp)
    run_slide(slide, request, FakeEngine(boxes=3), tmp_path / "run", mask="all", overview=False, limit=3)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    document = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=refuse)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)
    assert (document["mask"]["tissue_mm2"] is None) == (mpp is None)


def test_objects_are_counted_by_label_and_area(tmp_path: Path) -> None:
    answers = [
        Answer(Status.OK, (box("tumour", 50, 50, 0.5), box("tumour", 100, 100, 1.0), box("fat", 150, 20))),
        Answer(Status.EMPTY),
        Answer(Status.TRUNCATED, (box("lymphocyte", 50, 50, 0.9),)),
        Answer.failure("no model"),
    ]
    report = four_tiles(Task.DETECT, answers, tmp_path / "run")
    results = report.results
    assert results.task == "detect"
    assert (results.found, results.total) == (4, 4)
    by_label = {of.label: of for of in results.labels}
    assert list(by_label) == ["tumour", "lymphocyte", "fat"]
    assert by_label["tumour"].count == 2
    assert by_label["tumour"].mean_score == pytest.approx(0.75)
    assert by_label["tumour"].per_mm2 == pytest.approx(2 / (2 * MM2)), "two tiles were answered completely"
    assert by_label["lymphocyte"].count == 1
    assert by_label["lymphocyte"].per_mm2 == 0, "a truncated tile says nothing of density"
    assert by_label["fat"].mean_score is None
    counts = report.tiles.counts
    assert (counts.ok, counts.empty, counts.truncated, counts.failed, counts.pending) == (1, 1, 1, 1, 0)
    assert report.tiles.tissue_answered == 0.5
    assert report.tiles.failed[0].reason == "no model"
    assert (report.tiles.failed[0].x0, report.tiles.failed[0].y0) == (200, 200)
    assert "Results cover 50.0% of the tissue: 1 tile failed, 1 tile truncated." in report.warnings
    assert "The model used labels that were not asked for: fat." in report.warnings


def test_an_object_on_a_seam_counts_once(tmp_path: Path) -> None:
    request = request_of(Task.DETECT, tile_size=224, overlap=48, mpp=None)
    seen = [TileObject("tumour", box=(186, 50, 210, 74)), TileObject("tumour", box=(10, 50, 34, 74))]
    answers = [Answer(Status.OK, (each,)) for each in seen]
    slide = MemorySlide(400, 224)
    report = run_slide(slide, request, Scripted(*answers), tmp_path / "r", mask="all", overview=False).report
    assert (report.results.found, report.results.total) == (2, 1)  # type: ignore[union-attr]


def test_counts_weigh_tiles_by_what_they_own(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, value=n) for n in (4, 0, 10)] + [Answer(Status.REFUSED)]
    results = four_tiles(Task.COUNT, answers, tmp_path / "a").results
    assert results.task == "count"
    assert (results.tiles, results.total, results.median, results.largest) == (3, 14, 4, 10)
    assert results.per_mm2 == pytest.approx(14 / (3 * MM2))
    slide = MemorySlide(300, 200)  # two tiles, the second shifted back by half a tile
    request = request_of(Task.COUNT, tile_size=200, overlap=0, mpp=None)
    engine = Scripted(Answer(Status.OK, value=8), Answer(Status.OK, value=8))
    report = run_slide(slide, request, engine, tmp_path / "b", mask="all", overview=False).report
    assert report.results.total == 12  # type: ignore[union-attr]


def test_classes_have_tiles_and_areas(tmp_path: Path) -> None:
    def chose(label: str, p: float) -> Answer:
        rest = {other: (1 - p) / 2 for other in ("tumour", "stroma", "necrosis") if other != label}
        return Answer(Status.OK, text=label, scores={label: p, **rest})

    answers = [chose("tumour", 0.8), chose("tumour", 0.6), chose("stroma", 0.5), Answer(Status.REFUSED)]
    results = four_tiles(Task.CLASSIFY, answers, tmp_path / "run").results
    assert results.task == "classify"
    tumour, stroma, necrosis = results.labels
    assert (tumour.tiles, stroma.tiles, necrosis.tiles) == (2, 1, 0)
    assert tumour.share == pytest.approx(2 / 3)
    assert tumour.tissue_mm2 == pytest.approx(2 * MM2)
    assert tumour.mean_probability == pytest.approx((0.8 + 0.6 + 0.25) / 3)


def test_classes_without_probabilities_are_votes_and_said_so(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, text=label) for label in ("tumour", "stroma", "stroma", "stroma")]
    report = four_tiles(Task.CLASSIFY, answers, tmp_path / "run")
    assert report.results.labels[1].tiles == 3  # type: ignore[union-attr]
    assert report.results.labels[1].mean_probability is None  # type: ignore[union-attr]
    assert any("without probabilities" in warning for warning in report.warnings)


def test_scores_have_quantiles_and_an_area(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, scores={"yes": p}) for p in (0.0, 0.5, 1.0)] + [Answer.failure("x")]
    results = four_tiles(Task.SCORE, answers, tmp_path / "run").results
    assert results.task == "score"
    assert (results.tiles, results.mean, results.quantiles["0.5"]) == (3, 0.5, 0.5)
    assert results.above_half_tiles == 2
    assert results.above_half_mm2 == pytest.approx(2 * MM2)
    assert results.above_half_px0 == 2 * 200 * 200


def test_without_any_answer_nothing_is_made_up(tmp_path: Path) -> None:
    for task in Task:
        report = four_tiles(task, [Answer.failure("x")] * 4, tmp_path / task)
        assert not report.complete
        assert report.tiles.tissue_answered == 0
        document = report.results.model_dump()
        assert document.get("mean") is None
        assert document.get("total") in (None, 0)


def test_words_are_listed_in_reading_order(tmp_path: Path) -> None:
    answers = [Answer(Status.OK, text=f"tile {n}") for n in range(3)] + [Answer(Status.EMPTY)]
    results = four_tiles(Task.DESCRIBE, answers, tmp_path / "a").results
    assert results.task == "describe"
    assert [(of.tile, of.text) for of in results.tiles] == [(n, f"tile {n}") for n in range(3)]
    values = [Answer(Status.OK, value={"n": [1, None, "x"]}), *[Answer(Status.EMPTY)] * 3]
    results = four_tiles(Task.EXTRACT, values, tmp_path / "b").results
    assert results.tiles[0].value == {"n": [1, None, "x"]}  # type: ignore[union-attr]


def test_what_a_reader_must_know_is_warned_of(tmp_path: Path) -> None:
    slide = MemorySlide(400, 400)
    slide.mpp_source = "user"
    request = request_of(Task.DETECT, mpp=0.25, tile_size=448)
    engine = Scripted(*[Answer(Status.EMPTY)] * 9, warning="not for diagnosis")
    report = run_slide(slide, request, engine, tmp_path / "run", mask="all", overview=False).report
    words = "\n".join(report.warnings)
    for part in ("not for diagnosis", "given by the user: 0.5 um/px", "enlarged 2.00-fold"):
        assert part in words
    assert report.run_options() == {"slide_mpp": 0.5, "mask": "all"}
    engine = Scripted(*[Answer(Status.EMPTY)] * 9)
    engine.info = replace(engine.info, trained=TrainedOn(128, (0.25, 0.5)))
    report = run_slide(slide, request, engine, tmp_path / "large", mask="all", overview=False).report
    said = "never saw 448 x 448 px at 0.25 um/px, which it sees as about 128 px at 0.875"
    assert any(said in warning for warning in report.warnings)
    unknown = four_tiles(Task.DETECT, [Answer(Status.EMPTY)] * 4, tmp_path / "b", mpp=None)
    assert any("does not state its scale" in warning for warning in unknown.warnings)


def test_provenance_names_everything(detect: Request, tmp_path: Path) -> None:
    slide, engine = MemorySlide(), FakeEngine(boxes=1)
    report = run_slide(slide, detect, engine, tmp_path / "run", overview=False, command="qwenvl detect x").report
    assert report.provenance.request_hash == detect.hash
    assert report.provenance.slide_fingerprint == slide.fingerprint
    assert report.provenance.model_fingerprint == engine.info.fingerprint
    assert report.provenance.versions["numpy"] == np.__version__
    assert report.run.command == "qwenvl detect x"
    elsewhere = run_slide(slide, detect, engine, tmp_path / "other", overview=False).report
    assert elsewhere.provenance.run_id == report.provenance.run_id
    assert Request.model_validate(json.loads(report.to_json())["request"]) == detect


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"report\.json does not exist"):
        Report.read(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": "9.0"}')
    with pytest.raises(StoreVersionError, match=r"schema version 1:"):
        Report.read(tmp_path)
