"""`qwenvl batch` on the command line: studies, flags, exit codes, status, and a dry run that writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cohort_helpers import ENGINE, REQUEST, threads
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from workflows.cohort import CohortPlan
from workflows.cohort.folder import AtWork, BatchFolder
from workflows.cohort.workers.work import close_engine
from workflows.errors import CohortError
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
    done = run("batch", slides, "-c", study, "--allow-code", "-o", out, "--export", "geojson")
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
    some = run("batch", table, "-c", study, "--allow-code", "-o", out)
    assert some.exit_code == 3, some.output
    assert "row 3 (lost)" in some.output
    assert "stay those of the earlier call" in some.output.replace("\n", " ")
    assert run("batch", "status", out).exit_code == 0
    strict = run("batch", table, "-c", study, "--allow-code", "-o", tmp_path / "strict", "--strict")
    assert strict.exit_code == 1
    assert not (tmp_path / "strict" / "one").exists()


def test_a_dry_run_says_what_is_to_come_and_writes_nothing(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = run(
        "batch", slides, "-c", study, "--allow-code", "-o", out, "--dry-run", "--seconds-per-tile", "36", "-w", "2"
    )
    assert told.exit_code == 0, told.output
    assert "2 slides" in told.output
    assert "36 s per tile (given)" in told.output
    timed = run("batch", slides, "-c", study, "--allow-code", "-o", out, "--dry-run")
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
    assert run("batch", slides, "-c", study, "--allow-code", "-o", out).exit_code == 0
    plan = CohortPlan.read(BatchFolder(out))
    assert [row.id for row in plan.rows] == ["one", "two"]
    assert plan.request.tile_size == 64
    assert plan.study.quality.mode == "mark"
    assert json.loads(run("schema", "study").output)["title"] == "Study"


def test_code_of_a_study_runs_only_where_it_is_allowed(slides: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more in ([], ["--dry-run"]):
        refused = run("batch", slides, "-c", study, "-o", out, *more)
        assert refused.exit_code == 1, refused.output
        assert "cohort_engine:make" in refused.output
        assert "--allow-code" in refused.output
        assert not out.exists()
    assert run("batch", slides, "-c", study, "-o", out, "--allow-code").exit_code == 0
    assert run("batch", "status", out).exit_code == 0, "needs no code"
    again = run("repeat", out / "one", "-o", tmp_path / "again")
    assert again.exit_code == 1, "a report names no code, and none is imported"
    assert "Traceback" not in again.output


def test_a_refused_batch_leaves_a_finished_study_alone(
    slides: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    flags = ["-c", study, "--allow-code", "-o", out]
    assert run("batch", slides, *flags).exit_code == 0
    before = _files(out)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"request": REQUEST | {"labels": ["mitosis"]}, "model": ENGINE}))
    missing = tmp_path / "missing.yaml"
    missing.write_text(yaml.safe_dump({"request": REQUEST, "model": {"name": str(tmp_path / "nowhere")}}))
    (bad := tmp_path / "bad.csv").write_text(f'slide,id\n"{slides}/one.svs,one\n')
    (lost := tmp_path / "lost.csv").write_text("slide,id\nnowhere.svs,one\n")
    (half := tmp_path / "half.csv").write_text(f"slide,id\n{slides}/one.svs,new\nnowhere.svs,two\n")
    for cohort, config, more in (
        (slides, other, []),
        (slides, missing, []),
        (bad, study, []),
        (lost, study, []),
        (half, study, ["--strict"]),
        (slides, other, ["--overwrite", "--scheduler", "tcp://127.0.0.1:1"]),
    ):
        if "--scheduler" in more:
            monkeypatch.setattr("workflows.cohort.run.connect", _no_scheduler)
        refused = run("batch", cohort, "-c", config, "--allow-code", "-o", out, *more)
        assert refused.exit_code in (1, 3), refused.output
        assert _files(out) == before, (cohort.name, config.name, more)
    with AtWork(BatchFolder(out)):
        assert run("batch", slides, "-c", other, "--allow-code", "-o", out).exit_code == 1
    assert _files(out) == before
    # The cohort of the first call comes back as it was.
    assert run("batch", slides, *flags).exit_code == 0
    assert _files(out).keys() == before.keys()


def test_tables_take_their_place_together(
    slides: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    out = tmp_path / "out"
    assert run("batch", slides, "-c", study, "--allow-code", "-o", out).exit_code == 0
    (out / "summary.csv").write_text("earlier")
    before = _files(out)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    assert run("batch", "table", out).exit_code == 1
    assert _files(out) == before


def _files(folder: Path) -> dict[str, bytes]:
    """Every file of a batch, but locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@contextmanager
def _no_scheduler(study: object) -> Iterator[None]:
    raise CohortError("No dask scheduler answers at tcp://127.0.0.1:1.")
    yield
