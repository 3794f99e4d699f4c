"""A run on a slide that QuPath crops: exports lie where QuPath shows it, and what comes back lies there too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded_slide import BOUNDS, DOT, DOTS, OFFSET, SIZE, scanned, write_scn
from cohort_helpers import plan_of, run_cohort, study_of, threads
from dots import DotEngine
from qupath_reader import read_objects
from run_helpers import MemorySlide
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from qwenvl.request import Request, Task
from workflows import export_geojson, run_slide
from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.check import check_rows
from workflows.cohort.workers.work import close_engine
from workflows.inputs.reopening import frames_of
from workflows.report.report import Report
from workflows.review.compare import compare_boxes, read_truth_boxes, run_boxes
from workflows.review.corrections import read_corrections
from workflows.review.reviewed import reviewed_objects
from workflows.run.plan.thresholds import thresholds
from workflows.store.provenance import SlideFacts
from workflows.store.run_store import RunStore
from wsi import SlideFrames, open_slide
from wsi.errors import FrameError, FrameNeededError

DETECT = Request(task=Task.DETECT, labels=("dot",), tile_size=224, overlap=32, mpp=0.5, max_objects=12)
SHOWN = sorted((x, y, x + DOT, y + DOT) for x, y in DOTS)
"""The squares in QuPath's px."""
LEVEL0 = sorted((x + OFFSET[0], y + OFFSET[1], x + OFFSET[0] + DOT, y + OFFSET[1] + DOT) for x, y in DOTS)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_scn(tmp_path / "a.scn")


@pytest.fixture
def run(slide: Path, tmp_path: Path) -> Path:
    return run_slide(slide, DETECT, DotEngine(), tmp_path / "run", mask="all", overview=False).folder


def close_to(found: Any, expected: Any) -> bool:
    """Whether sorted boxes agree within the px that a detector's edge may be off."""
    return len(found) == len(expected) and np.abs(np.array(sorted(found)) - expected).max() <= 1.01


def dropped_head(path: Path, target: Path) -> Path:
    """The file as QuPath writes it again: features without the file's own head."""
    features = json.loads(path.read_text())["features"]
    target.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return target


def annotations(path: Path, *boxes: tuple[float, float, float, float], head: Any = None) -> Path:
    features = []
    for x0, y0, x1, y1 in boxes:
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": "dot", "color": [1, 2, 3]}},
            }
        )
    start = {} if head is None else {"qwenvl": head}
    path.write_text(json.dumps({"type": "FeatureCollection", **start, "features": features}))
    return path


# ---------------------------------------------------------------------- out


def test_exported_boxes_lie_where_qupath_shows_the_squares(run: Path, tmp_path: Path) -> None:
    boxes, _ = run_boxes(run)
    assert close_to(boxes.tolist(), LEVEL0)
    export_geojson(run, tmp_path / "out.geojson")
    found = [each.bounds for each in read_objects(tmp_path / "out.geojson")]
    assert close_to(found, SHOWN)
    picture = scanned()  # what QuPath shows
    for x0, y0, x1, y1 in found:
        assert picture[round((y0 + y1) / 2), round((x0 + x1) / 2)].max() == 20
    head = json.loads((tmp_path / "out.geojson").read_text())["qwenvl"]
    assert (head["frame"], head["bounds"]) == ("qupath", list(BOUNDS))
    # the fault: px of the whole slide lie on tissue, or outside
    export_geojson(run, tmp_path / "whole.geojson", frame="level0")
    whole = [each.bounds for each in read_objects(tmp_path / "whole.geojson")]
    assert close_to(whole, LEVEL0)
    head = json.loads((tmp_path / "whole.geojson").read_text())["qwenvl"]
    assert (head["frame"], head["bounds"]) == ("level0", list(BOUNDS))


def test_tiles_lie_in_the_same_frame(slide: Path, tmp_path: Path) -> None:
    request = Request(task=Task.SCORE, prompt="dots?", tile_size=224, overlap=0, mpp=0.5)
    run_slide(slide, request, DotEngine(), tmp_path / "run", mask="all", overview=False)
    export_geojson(tmp_path / "run", tmp_path / "out.geojson")
    with RunStore.open(tmp_path / "run") as store:
        table = store.tiles()
    corners = [each.bounds[:2] for each in read_objects(tmp_path / "out.geojson")]
    assert corners == [(x - OFFSET[0], y - OFFSET[1]) for x, y in zip(table["x0"], table["y0"], strict=True)]


def test_a_slide_that_qupath_shows_whole_is_written_as_before(tmp_path: Path) -> None:
    run = run_slide(MemorySlide(), DETECT, DotEngine(), tmp_path / "run", mask="all", overview=False).folder
    for frame in ("qupath", "level0"):
        export_geojson(run, tmp_path / f"{frame}.geojson", frame=frame)
    documents = [json.loads((tmp_path / f"{frame}.geojson").read_text()) for frame in ("qupath", "level0")]
    assert documents[0]["features"] == documents[1]["features"]
    assert documents[0]["qwenvl"]["bounds"] is None


def test_exports_need_the_run_folder_alone(run: Path, slide: Path, tmp_path: Path) -> None:
    slide.unlink()
    export_geojson(run, tmp_path / "out.geojson")
    assert close_to([each.bounds for each in read_objects(tmp_path / "out.geojson")], SHOWN)
    assert Report.read(run).slide.qupath_bounds == BOUNDS


def test_a_run_without_the_record_asks_its_slide_or_the_user(run: Path, slide: Path) -> None:
    with RunStore.open(run) as store:
        facts = store.manifest.slide
    old = SlideFacts.model_validate(facts.model_dump(exclude={"qupath_bounds"}))
    assert frames_of(facts) == frames_of(old) == SlideFrames(BOUNDS)
    slide.unlink()
    assert frames_of(facts) == SlideFrames(BOUNDS)
    with pytest.raises(FrameError, match=r"before runs recorded .* Put it back"):
        frames_of(old)
    assert frames_of(old, "level0") == SlideFrames()
    assert frames_of(old.model_copy(update={"reader": "tiff"})) == SlideFrames()


# ---------------------------------------------------------------------- back


@pytest.mark.parametrize("frame", ["qupath", "level0"])
def test_the_round_trip_changes_nothing(run: Path, frame: str, tmp_path: Path) -> None:
    path = tmp_path / "out.geojson"
    export_geojson(run, path, frame=frame)
    assert str(read_corrections(run, path)) == f"{len(DOTS)} unchanged"
    bare = dropped_head(path, tmp_path / "again.geojson")
    assert str(read_corrections(run, bare, frame=frame)) == f"{len(DOTS)} unchanged"
    with pytest.raises(FrameNeededError, match="does not say in which px"):
        read_corrections(run, bare)
    # the fault: in the other frame every object seems to have moved
    other = "level0" if frame == "qupath" else "qupath"
    assert read_corrections(run, bare, frame=other).reshaped == len(DOTS)


def test_a_correction_lands_on_the_pixels_that_were_drawn_on(run: Path, slide: Path, tmp_path: Path) -> None:
    x, y = DOTS[1]
    path = annotations(tmp_path / "drawn.geojson", (x, y, x + DOT, y + DOT))
    assert read_corrections(run, path, frame="qupath").added == 1
    with RunStore.open(run) as store:
        x0, y0, x1, y1 = (round(edge) for edge in reviewed_objects(store).box[-1])
    with open_slide(slide) as opened:
        assert opened.read(x0, y0, x1 - x0, y1 - y0).max() == 20


@pytest.mark.parametrize(
    ("head", "frame", "words"),
    [
        ({"frame": "qupath", "bounds": list(BOUNDS)}, "level0", "--frame says"),
        ({"frame": "qupath", "bounds": [0, 128, *SIZE]}, None, "another slide or scan"),
        ({"frame": "qupath", "bounds": None}, None, "another slide or scan"),
        ({"frame": "viewer"}, None, "not known"),
    ],
)
def test_contradictions_are_errors_for_every_reader(
    run: Path, slide: Path, tmp_path: Path, head: Any, frame: str | None, words: str
) -> None:
    path = annotations(tmp_path / "t.geojson", *SHOWN, head=head)
    with pytest.raises(FrameError, match=words):
        read_corrections(run, path, frame=frame)
    with pytest.raises(FrameError, match=words):
        read_truth_boxes(path, frames=SlideFrames(BOUNDS), frame=frame)
    with pytest.raises(FrameError, match=words):
        run_slide(slide, DETECT, DotEngine(), tmp_path / "other", mask=path, frame=frame)
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------- masks, truth


def test_a_mask_drawn_in_qupath_is_asked_where_it_was_drawn(slide: Path, tmp_path: Path) -> None:
    x, y = DOTS[0]
    path = annotations(tmp_path / "m.geojson", (x - 20, y - 20, x + 30, y + 30))
    engine = DotEngine()
    result = run_slide(slide, DETECT, engine, tmp_path / "run", mask=path, frame="qupath", overview=False)
    boxes, _ = run_boxes(result.folder)
    assert tuple(LEVEL0[0]) in [tuple(np.round(box)) for box in boxes.tolist()]
    assert result.report.mask.frame == "qupath"
    assert result.report.run_options()["frame"] == "qupath"
    tissue = run_slide(slide, DETECT, DotEngine(), tmp_path / "t", mask="all", frame="qupath", overview=False)
    assert tissue.report.mask.frame is None  # there was no file to read
    # the same command resumes
    again = run_slide(slide, DETECT, engine, tmp_path / "run", mask=path, frame="qupath", overview=False)
    assert again.asked == 0
    wrong = run_slide(slide, DETECT, DotEngine(), tmp_path / "off", mask=path, frame="level0", overview=False)
    assert wrong.report.mask.frame == "level0"
    assert len(run_boxes(wrong.folder)[0]) == 0  # it lies on glass


def test_truth_of_qupath_is_compared_where_it_was_drawn(run: Path, tmp_path: Path) -> None:
    boxes, labels = run_boxes(run)
    path = annotations(tmp_path / "t.geojson", *SHOWN)
    for frame, matched in (("qupath", len(DOTS)), ("level0", 0)):
        true, names = read_truth_boxes(path, frames=SlideFrames(BOUNDS), frame=frame)
        assert compare_boxes(boxes, labels, true, names)["all"].matched == matched


def test_thresholds_hold_scores_against_truth_of_qupath(slide: Path, tmp_path: Path) -> None:
    request = Request(task=Task.SCORE, prompt="dots?", tile_size=224, overlap=0, mpp=0.5)
    run = run_slide(slide, request, DotEngine(), tmp_path / "run", mask="all", overview=False).folder
    path = annotations(tmp_path / "t.geojson", *SHOWN)
    rows = thresholds(run, path, steps=(0.3,), frame="qupath")
    assert rows[0].recall == 1
    assert thresholds(run, path, steps=(0.3,), frame="level0")[0].recall < 1
    with pytest.raises(FrameNeededError):
        thresholds(run, path)


# ---------------------------------------------------------------------- the command line


def command(*args: Any) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


def test_info_says_what_qupath_shows(slide: Path) -> None:
    assert "512 x 384 px, from x 256, y 128" in command("info", slide).output
    assert json.loads(command("info", slide, "--json").output)["qupath_bounds"] == list(BOUNDS)


def test_every_command_asks_and_takes_the_answer(run: Path, tmp_path: Path) -> None:
    bare = annotations(tmp_path / "t.geojson", *SHOWN)
    out = tmp_path / "out.geojson"
    assert command("export", "geojson", run, "-o", out, "--frame", "level0").exit_code == 0
    score = tmp_path / "score"
    request = Request(task=Task.SCORE, prompt="dots?", tile_size=224, overlap=0, mpp=0.5)
    run_slide(tmp_path / "a.scn", request, DotEngine(), score, mask="all", overview=False)
    for words in (["compare", run, bare], ["thresholds", score, bare], ["corrections", run, bare]):
        asked = command(*words)
        assert asked.exit_code == 1
        assert "--frame qupath" in asked.output
        assert "--frame level0" in asked.output
        assert command(*words, "--frame", "canvas").exit_code == 2
        assert command(*words, "--frame", "qupath").exit_code == 0
    refused = command("compare", run, out, "--frame", "qupath")
    assert refused.exit_code == 1
    assert "--frame says" in refused.output
    assert "recall 1.000" in command("compare", run, out).output


def test_a_run_asks_about_its_mask(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.run.options.load_engine", lambda options: (DotEngine(), {}))
    bare = annotations(tmp_path / "m.geojson", *SHOWN)
    words = ["detect", slide, "-l", "dot", "--tile-size", 224, "--mask", bare, "--dry-run"]
    asked = command(*words)
    assert asked.exit_code == 1
    assert "--frame qupath" in asked.output
    assert command(*words, "--frame", "qupath").exit_code == 0


# ---------------------------------------------------------------------- cohorts


def test_a_cohort_names_the_rows_whose_masks_need_an_answer(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.setenv("COHORT_LOG", str(tmp_path / "asked"))
    monkeypatch.delenv("COHORT_TOLD", raising=False)
    close_engine()
    x, y = DOTS[0]
    annotations(tmp_path / "m.geojson", (x - 20, y - 20, x + 30, y + 30))
    lines = ["slide,id,mask,frame", "a.scn,asked,m.geojson,", "a.scn,said,m.geojson,qupath"]
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    plan = plan_of(tmp_path / "cohort.csv")
    asked, said = check_rows(plan, BatchFolder(tmp_path / "out"))
    assert "does not say in which px" in str(asked.problem)
    assert said.problem is None
    everyone = plan_of(tmp_path / "cohort.csv", study_of(slides={"frame": "level0"}))
    assert [everyone.frame(row) for row in everyone.rows] == ["level0", "qupath"]
    done = run_cohort(plan, tmp_path / "out")
    assert {name: outcome.ended for name, outcome in done.outcomes.items()} == {"said": "complete"}
    assert Report.read(tmp_path / "out" / "said").mask.frame == "qupath"
    # repeated, there is nothing left to do
    again = check_rows(plan, BatchFolder(tmp_path / "out"))[1]
    assert again.finished
