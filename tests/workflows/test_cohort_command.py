"""`qwenvl batch` on the command line: studies, flags, exit codes, status, and a dry run that writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cohort_helpers import ENGINE, REQUEST, threads
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from workflows.cohort import Plan
from workflows.cohort.folder import BatchFolder
from workflows.cohort.work import close_engine
from wsi.synthetic import Scene, write_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("one", "two")):
        write_slide(folder / f"{name}.svs", Scene(100, 100, seed), mpp=0.25, downsamples=(1, 4), truth=False)
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.delenv("COHORT_TOLD", raising=False)
    close_engine()
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"request": REQUEST, "model": ENGINE}))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(each) for each in arguments])


def test_a_batch_from_beginning_to_end(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("batch", slides, "-c", study, "-o", out, "--export", "geojson")
    assert done.exit_code == 0, done.output
    assert "2 of 2 slides complete" in done.output
    assert (out / "one" / "objects.geojson.gz").exists()
    told = run("batch", "status", out)
    assert told.exit_code == 0, told.output
    assert "2 complete" in told.output
    document = json.loads(run("batch", "status", out, "--json").output)
    assert document["complete"] is True
    assert [each["stage"] for each in document["slides"]] == ["complete", "complete"]
    (out / "summary.csv").unlink()
    assert run("batch", "table", out).exit_code == 0
    assert (out / "summary.csv").exists()
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide,id\n{slides}/one.svs,one\nnowhere.svs,lost\n")
    some = run("batch", table, "-c", study, "-o", out)
    assert some.exit_code == 3, some.output
    assert "row 3 (lost)" in some.output
    assert run("batch", "status", out).exit_code == 3
    strict = run("batch", table, "-c", study, "-o", tmp_path / "strict", "--strict")
    assert strict.exit_code == 1
    assert not (tmp_path / "strict" / "one").exists()


def test_a_dry_run_says_what_is_to_come_and_writes_nothing(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = run("batch", slides, "-c", study, "-o", out, "--dry-run", "--seconds-per-tile", "36", "-w", "2")
    assert told.exit_code == 0, told.output
    assert "2 slides" in told.output
    assert "36 s per tile (given)" in told.output
    timed = run("batch", slides, "-c", study, "-o", out, "--dry-run")
    assert "just now" in timed.output, timed.output
    assert not out.exists()


def test_flags_make_the_same_study_as_a_file(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["-l", "nucleus", "--mpp", "0.5", "--tile-size", "64", "--overlap", "16", "--qc", "off"]
    told = run("batch", slides, *flags, "-o", out, "--dry-run", "--seconds-per-tile", "1")
    assert told.exit_code == 0, told.output
    assert "detect nucleus with embedded, tiles of 64 px at 0.5 um/px" in told.output.replace("\n", " ")
    both = run("batch", slides, "-c", study, "--mpp", "1", "-l", "nucleus", "-o", out)
    assert both.exit_code == 2
    assert "--mpp" in both.output
    assert "--labels" in both.output
    native = run("batch", slides, "--native", "-o", out, "--dry-run", "--seconds-per-tile", "1")
    assert "at level-0 px" in native.output.replace("\n", " "), native.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.csv", "-o", "out"], 1, "nowhere.csv does not exist"),
        (["SLIDES"], 2, "-o OUT"),
        (["SLIDES", "-o", "out", "--limit", "3"], 2, "--limit"),
        (["SLIDES", "-o", "out", "-c", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["SLIDES", "-o", "out", "--qc", "perhaps"], 2, "mode"),
        (["SLIDES", "-o", "out", "--qc", "mark", "--qc-limit", "blurr=1"], 2, "blurr"),
        (["SLIDES", "-o", "out", "--task", "score"], 2, "needs a question"),
        (["status", "nowhere"], 1, "holds no batch"),
        (["table", "nowhere"], 1, "holds no batch"),
    ],
)
def test_bad_input_gets_a_named_error(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("batch", *(str(slides) if each == "SLIDES" else each for each in arguments))
    assert result.exit_code == code, result.output
    assert words in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_the_plan_beside_the_runs_is_what_was_asked(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("batch", slides, "-c", study, "-o", out).exit_code == 0
    plan = Plan.read(BatchFolder(out))
    assert [row.id for row in plan.rows] == ["one", "two"]
    assert plan.request.tile_size == 64
    assert plan.study.quality.mode == "mark"
    assert json.loads(run("schema", "study").output)["title"] == "Study"
