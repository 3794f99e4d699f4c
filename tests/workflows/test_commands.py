"""The command line: every task runs, every bad input gets a named error, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qwenvl.checkpoints.testing import tiny_checkpoint
from qwenvl.cli import load_commands
from wsi.synthetic import Scene, write_slide

FAST = ["--tile-size", "224", "--overlap", "32", "--mpp", "0.5", "--max-new-tokens", "8", "--limit", "3"]


def run(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return tiny_checkpoint("Qwen3-VL", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def svs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "small.svs"
    write_slide(path, Scene(256, 256, seed=3), mpp=0.25, downsamples=(1, 4))
    return path


def test_help_and_version_load_no_model():
    code = (
        "import sys; from qwenvl.cli import load_commands; load_commands(); "
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'napari'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert run("--version").output.startswith("napari-qwenvl ")


@pytest.mark.parametrize(
    ("task", "flags", "kind"),
    [
        ("detect", ["-l", "nucleus"], "detect"),
        ("point", ["-l", "nucleus"], "point"),
        ("count", ["-l", "nucleus"], "count"),
        ("classify", ["-l", "tumor,stroma"], "classify"),
        ("score", ["Is there tumor?"], "score"),
        ("describe", [], "describe"),
        ("ask", ["What is this?"], "ask"),
        ("extract", ["--schema", "form.json"], "extract"),
    ],
)
def test_every_task_ends_in_a_report(task, flags, kind, tiny, svs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("form.json").write_text('{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}}')
    result = run(task, svs, *flags, "-m", tiny, "-o", "run", *FAST)
    report = json.loads(Path("run/report.json").read_text())
    failed = report["tiles"]["counts"]["failed"]
    assert result.exit_code == (3 if failed else 0), result.output
    assert report["request"]["task"] == kind
    assert sum(report["tiles"]["counts"].values()) == report["tiles"]["total"]
    assert report["tiles"]["counts"]["pending"] == report["tiles"]["total"] - 3
    assert Path("run/overview.png").exists()


def test_a_run_is_repeated_from_its_report(tiny, svs, tmp_path):
    first = run("score", svs, "Is there tumor?", "-m", tiny, "-o", tmp_path / "a", *FAST[:-2])
    assert first.exit_code == 0, first.output
    again = run("repeat", tmp_path / "a" / "report.json", "-o", tmp_path / "b")
    assert again.exit_code == 0, again.output
    a, b = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    assert a.pop("run") != b.pop("run")
    assert a == b


def test_a_run_is_repeated_on_its_own_slide_and_model_only(tiny, svs, tmp_path):
    slide, model = tmp_path / "in" / "a.svs", tmp_path / "model"
    slide.parent.mkdir()
    shutil.copy(svs, slide)
    shutil.copytree(tiny, model)
    asked = ["Is there tumor?", "-m", model, *FAST[:-2]]
    assert run("score", slide, *asked, "-o", tmp_path / "in" / "runs" / "a").exit_code == 0
    write_slide(slide, Scene(256, 256, seed=4), mpp=0.25, downsamples=(1, 4), overwrite=True)
    other = run("repeat", tmp_path / "in" / "runs" / "a", "-o", tmp_path / "b")
    assert other.exit_code == 1
    assert "a.svs has another content now" in other.output
    assert "a repetition is one of the same slide" in other.output.lower()
    named = run("repeat", tmp_path / "in" / "runs" / "a", "-o", tmp_path / "b", "--slide", slide)
    assert named.exit_code == 1
    assert "not the slide of the run" in named.output
    # Moved together with its run, it is found; under another name, it is named by hand.
    shutil.copy(svs, slide)
    moved = (tmp_path / "in").rename(tmp_path / "moved")
    again = run("repeat", moved / "runs" / "a", "-o", tmp_path / "c")
    assert again.exit_code == 0, again.output
    shutil.move(moved / "a.svs", tmp_path / "away.svs")
    again = run("repeat", moved / "runs" / "a", "-o", tmp_path / "d", "--slide", tmp_path / "away.svs")
    assert again.exit_code == 0, again.output
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = run("repeat", moved / "runs" / "a", "-o", tmp_path / "e", "--slide", tmp_path / "away.svs")
    assert changed.exit_code == 1
    assert "is not the model of" in changed.output
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "e").exists()


def test_what_has_pictures_says_where_the_slide_is_missing(tiny, svs, tmp_path):
    slide, folder = tmp_path / "a.svs", tmp_path / "runs" / "a"
    shutil.copy(svs, slide)
    asked = run("detect", slide, "-m", tiny, "-o", folder, *FAST)
    assert (folder / "report.json").exists(), asked.output
    away = slide.rename(tmp_path / "away.svs")
    write_slide(slide, Scene(256, 256, seed=4), mpp=0.25, downsamples=(1, 4))
    for words, out in (
        (["report", folder, "--refresh"], None),
        (["export", "spatialdata", folder], "s.zarr"),
        (["export", "labels", folder], "l.zarr"),
    ):
        more = [] if out is None else ["-o", tmp_path / out]
        told = run(*words, *more)
        assert told.exit_code == 0, told.output
        assert "note: a.svs was not found" in told.output
        assert "--slide" in told.output
        wrong = run(*words, *([] if out is None else ["-o", tmp_path / f"w{out}"]), "--slide", slide)
        assert wrong.exit_code == 1
        assert "not the slide of the run" in wrong.output
        found = run(*words, *([] if out is None else ["-o", tmp_path / f"f{out}"]), "--slide", away)
        assert found.exit_code == 0, found.output
        assert "was not found" not in found.output
    pictures = run("export", "coco", folder, "-o", tmp_path / "c.json", "--tiles", "--pictures")
    assert pictures.exit_code == 1
    assert "pictures of its tiles cannot be written" in pictures.output
    assert run("report", folder, "--html").exit_code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "a.svs was not found" in page
    assert "This page has no pictures of it" in page
    assert run("report", folder, "--html", "--slide", away).exit_code == 0
    assert "was not found" not in (folder / "report.html").read_text(encoding="utf-8")
    batch = run("export", "html", folder, folder, "-o", tmp_path / "h.html", "--slide", away)
    assert batch.exit_code == 2


def test_report_exports_and_schema(tiny, svs, tmp_path):
    run("score", svs, "Is there tumor?", "-m", tiny, "-o", tmp_path / "run", *FAST)
    shown = run("report", tmp_path / "run")
    assert shown.exit_code == 0
    assert "tissue answered" in shown.output
    assert json.loads(run("report", tmp_path / "run", "--json").output)["schema_version"] == "1.1"
    exported = run("export", "geojson", tmp_path / "run", "-o", tmp_path / "tiles.geojson")
    assert exported.exit_code == 0, exported.output
    assert len(json.loads((tmp_path / "tiles.geojson").read_text())["features"]) == 3
    refused = run("export", "geojson", tmp_path / "run", "-o", tmp_path / "tiles.geojson")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.output
    assert run("export", "csv", tmp_path / "run", "--tiles", "-o", tmp_path / "tiles.csv").exit_code == 0
    assert json.loads(run("schema").output)["title"] == "Report"
    assert "task" in json.loads(run("schema", "request").output)["properties"]


def bad_inputs(folder: Path, svs: Path, tiny: Path) -> dict[str, tuple[list[object], int, str]]:
    """Name to (arguments, exit code, words of the message)."""
    cut = folder / "cut.svs"
    cut.write_bytes(svs.read_bytes()[: svs.stat().st_size // 3])
    text = folder / "text.svs"
    text.write_text("not a slide")
    (folder / "empty").mkdir()
    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(60, 200, (300, 400, 3), np.uint8)).save(picture)
    glass = folder / "glass.png"
    Image.fromarray(np.full((600, 600, 3), 245, np.uint8)).save(glass)
    settings = folder / "no-settings"
    shutil.copytree(tiny, settings)
    (settings / "preprocessor_config.json").unlink()
    family = folder / "other-family"
    shutil.copytree(tiny, family)
    config = json.loads((family / "config.json").read_text())
    (family / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    form = folder / "form.json"
    form.write_text("{")
    out = ["-o", folder / "out"]
    detect = ["-m", tiny, *out]
    scale = ["--slide-mpp", "0.5", "--mpp", "0.5", "--tile-size", "224", "--overlap", "0"]
    return {
        "missing file": (["detect", folder / "none.svs", *detect], 1, "does not exist"),
        "folder without a slide": (["detect", folder / "empty", *detect], 1, "folder without a slide"),
        "truncated": (["detect", cut, *detect], 1, "cut.svs"),
        "not a slide": (["detect", text, *detect], 1, "text.svs"),
        "no mpp": (["detect", picture, *detect, "--mpp", "0.5"], 1, "--slide-mpp"),
        "zero tissue": (["detect", glass, *detect, *scale], 1, "tissue"),
        "tile larger than slide": (
            ["detect", picture, *detect, *scale[:-3], "2048"],
            1,
            "use a tile size of at most 288 px",
        ),
        "unknown family": (["detect", picture, "-m", family, *out], 1, "llava"),
        "no processor settings": (["detect", picture, "-m", settings, *out], 1, "preprocessor_config"),
        "no such model": (["detect", picture, "-m", folder / "nothing", *out], 1, "nothing"),
        "flags that do not fit": (["detect", picture, *detect, "--tile-size", "64", "--overlap", "60"], 2, "overlap"),
        "one class": (["classify", picture, "-l", "a", *detect], 2, "two labels"),
        "broken schema file": (["extract", picture, "--schema", form, *detect], 1, "form.json"),
        "native and mpp": (["detect", picture, *detect, "--native", "--mpp", "1"], 2, "--native"),
        "unreadable mask": (["detect", picture, *detect, *scale, "--mask", form], 1, "form.json"),
        "no run to report": (["report", folder / "empty"], 1, "empty"),
    }


NAMES = (
    "missing file",
    "folder without a slide",
    "truncated",
    "not a slide",
    "no mpp",
    "zero tissue",
    "tile larger than slide",
    "unknown family",
    "no processor settings",
    "no such model",
    "flags that do not fit",
    "one class",
    "broken schema file",
    "native and mpp",
    "unreadable mask",
    "no run to report",
)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_gets_a_named_error_and_leaves_nothing(name, svs, tiny, tmp_path):
    cases = bad_inputs(tmp_path, svs, tiny)
    assert tuple(cases) == NAMES
    arguments, code, words = cases[name]
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_run_is_refused_until_told(tiny, svs, tmp_path):
    out = tmp_path / "run"
    assert run("score", svs, "Is there tumor?", "-m", tiny, "-o", out, *FAST).exit_code == 0
    before = (out / "report.json").read_bytes()
    refused = run("score", svs, "Is there fat?", "-m", tiny, "-o", out, *FAST)
    assert refused.exit_code == 1
    assert "request" in refused.output
    assert (out / "report.json").read_bytes() == before
    told = run("score", svs, "Is there fat?", "-m", tiny, "-o", out, *FAST, "--overwrite")
    assert told.exit_code == 0, told.output
    kept = [p for p in tmp_path.iterdir() if p.name.startswith("run.")]
    assert [(p / "report.json").read_bytes() for p in kept if p.is_dir()] == [before]


def test_a_foreign_folder_is_left_alone(tiny, svs, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    result = run("detect", svs, "-m", tiny, "-o", tmp_path, *FAST, "--overwrite")
    assert result.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("mask", ["all", "auto"])
def test_a_corrupt_tile_fails_alone(mask, real_data, tiny, tmp_path):
    slide = real_data / "slides" / "tiny_unreadable_tile.svs"
    flags = ["--mpp", "0.2495", "--tile-size", "32", "--overlap", "0", "--mask", mask]
    result = run("detect", slide, "-m", tiny, "-o", tmp_path / "run", *flags)
    assert result.exit_code == 3, result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["tiles"]["counts"]["failed"] == report["tiles"]["total"] == 1
    assert "tiny_unreadable_tile.svs" in report["tiles"]["failed"][0]["reason"]
    assert report["tiles"]["tissue_answered"] == 0
    assert not report["complete"]


def test_full_disk_keeps_what_was_finished(tiny, svs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert run("score", svs, "Is there tumor?", "-m", tiny, "-o", out, *FAST).exit_code == 0
    from workflows.store.run_store import RunStore

    def no_space(self, batch, splits):
        from workflows.store.schema import named_errors

        with named_errors(out / "run.sqlite"):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(RunStore, "put", no_space)
    result = run("score", svs, "Is there tumor?", "-m", tiny, "-o", out, *FAST)
    assert result.exit_code == 1
    assert "full" in result.output
    with RunStore.open(out) as store:
        assert len(store.finished()) == 3


ADAPTIVE = [
    "-l",
    "nucleus",
    "--tile-size",
    "64",
    "--overlap",
    "16",
    "--mpp",
    "0.5",
    "--max-new-tokens",
    "8",
    "--split",
    "1",
    "--crowded",
    "3",
    "--where",
    "tumor",
    "--where-labels",
    "tumor,other",
    "--where-mpp",
    "1",
    "--where-threshold",
    "0.4",
    "--token-budget",
    "6000",
]


def test_every_flag_of_where_to_look_is_in_the_request_and_repeats(tiny, svs, tmp_path):
    first = run("detect", svs, *ADAPTIVE, "-m", tiny, "-o", tmp_path / "a")
    assert first.exit_code in (0, 3), first.output
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    asked = report["request"]
    assert (asked["split"], asked["crowded"], asked["token_budget"]) == (1, 3, 6000)
    assert asked["where"] | {"overlap": 0} == {
        "question": None,
        "labels": ["tumor", "other"],
        "wanted": ["tumor"],
        "mpp": 1.0,
        "tile_size": None,
        "overlap": 0,
        "threshold": 0.4,
    }
    assert report["cascade"]["decided"]
    assert report["plan"]["tokens"] <= 6000
    again = run("repeat", tmp_path / "a", "-o", tmp_path / "b")
    assert again.exit_code == first.exit_code, again.output
    other = json.loads((tmp_path / "b" / "report.json").read_text())
    for each in (report, other):
        each.pop("run")
    assert other == report


def test_a_dry_run_says_what_it_takes_and_writes_nothing(tiny, svs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in svs.parent.iterdir())
    result = run("detect", svs, *ADAPTIVE, "-m", tiny, "-o", "run", "--dry-run")
    assert result.exit_code == 0, result.output
    for words in ("coarse tiles: ", "tiles: ", "per tile for picture and question", "memory: about", "up to 8 written"):
        assert words in result.output
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in svs.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["detect", "--where-threshold", "0.4"], "need a question"),
        (["detect", "--where", "x", "--where-labels", "a,b"], "wanted"),
        (["describe", "--split", "1"], "only detect, point, count can split"),
    ],
)
def test_flags_of_where_to_look_that_contradict_each_other(flags, said, tiny, svs, tmp_path):
    result = run(flags[0], svs, *flags[1:], "-m", tiny, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "run").exists()


def test_thresholds_are_printed(tiny, svs, tmp_path):
    assert run("score", svs, "Is there tumor?", "-m", tiny, "-o", tmp_path / "s", *FAST[:-2]).exit_code == 0
    truth = svs.with_suffix(".truth.geojson")
    result = run("thresholds", tmp_path / "s", truth, "--objects")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("threshold   recall    tiles     work")
    rows = json.loads(run("thresholds", tmp_path / "s", truth, "--objects", "--json").output)
    assert rows[0].keys() == {"threshold", "recall", "tiles", "work"}
    assert run("thresholds", tmp_path / "s", tmp_path / "none.geojson").exit_code == 1


def test_a_missing_slide_is_named_before_a_model_is_loaded(tmp_path):
    result = run("detect", tmp_path / "none.svs", "-m", tmp_path / "no-model")
    assert result.exit_code == 1
    assert "none.svs does not exist" in result.output
