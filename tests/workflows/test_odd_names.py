"""Names as files have them: a run, its exports and its report work under every one of them, a cohort loses no row."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cohort_helpers import plan_of, run_cohort, study_of, threads
from PIL import Image
from run_helpers import request_of
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.cohort import read_cohort, write_summary
from workflows.cohort.workers.work import close_engine
from workflows.inputs.reopening import reopen
from workflows.report.html import write_batch_report
from workflows.report.report import Report
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore

UNDECODABLE = os.fsdecode(b"M\xfcller\xff") if sys.platform != "win32" else "M\u00fcller"
NAMES = {
    "signs of patterns and addresses": "[x]*? #1 100% %20 &a;b'\"<b>",
    "line end, tab, escape": "new\nline\ttab\x1b[31m",
    "dash": "-o",
    "home": "~nobody",
    "drive": "C:\\a",
    "accents in two forms, emoji": "\u00e9e\u0301\U0001f600",
    "spaces and dots": " a b . ",
    "long": "x" * 230,
    "no UTF-8": UNDECODABLE,
}
if sys.platform == "win32":
    NAMES = {key: NAMES[key] for key in ("dash", "home", "accents in two forms, emoji", "no UTF-8")}
named = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    grain = np.random.default_rng(seed).integers(0, 61, (200, 200, 1))
    Image.fromarray((np.array([215, 130, 175]) - grain).astype(np.uint8)).save(path, format="PNG")
    return path


def qwenvl(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


@pytest.mark.parametrize("name", [name for name in NAMES.values() if len(name) > 9 or name == UNDECODABLE])
def test_a_run_with_its_exports(name: str, tmp_path: Path) -> None:
    folder = tmp_path / f"{name[:80]}_"
    slide = picture(folder / f"{name}.png")
    run = folder / f"run {name[:80]}"
    request = request_of(Task.DETECT, tile_size=200, overlap=0, mpp=0.5)
    command = f"qwenvl detect {slide}"
    run_slide(slide, request, FakeEngine(boxes=3), run, mask="all", slide_mpp=0.5, command=command)
    facts = Report.read(run).slide
    assert facts.name == (f"{name}.png" if name != UNDECODABLE else "M\\xfcller\\xff.png")
    again = reopen(facts).slide
    assert again is not None
    assert again.path == slide
    again.close()
    short = name[:40]
    for words in (
        ["info", "--", slide],
        ["info", "--json", "--", slide],
        ["report", run],
        ["report", run, "--html"],
        *(
            ["export", kind, run, "-o", folder / f"{kind} {short}.{suffix}"]
            for kind, suffix in (
                ("geojson", "geojson"),
                ("csv", "csv"),
                ("parquet", "parquet"),
                ("coco", "json"),
                ("labels", "zarr"),
                ("heatmap", "zarr"),
                ("html", "html"),
            )
        ),
        ["export", "coco", run, "--tiles", "--pictures", "-o", folder / f"tiles {short}.json"],
        ["compare", run, folder / f"geojson {short}.geojson"],
        ["corrections", run, folder / f"geojson {short}.geojson"],
    ):
        done = qwenvl(*words)
        assert done.exit_code == 0, (words[:2], done.output, done.exception)
    for written in (*folder.glob("*json"), run / "report.json"):
        json.loads(written.read_text(encoding="utf-8"))
    for written in folder.glob("*.html"):
        written.read_text(encoding="utf-8")
    assert len(list(folder.glob("tiles*/*.png"))) == 1


@named
def test_what_is_missing_is_said_in_words(name: str, tmp_path: Path) -> None:
    for words in (
        ["info", "--", tmp_path / f"{name}.png"],
        ["report", tmp_path / name],
        ["batch", tmp_path / name, "-o", tmp_path / "out"],
    ):
        done = qwenvl(*words)
        assert done.exit_code in (1, 2), done.output
        assert isinstance(done.exception, SystemExit)
        assert "error: " in done.output


def test_a_cohort_of_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.delenv("COHORT_TOLD", raising=False)
    close_engine()
    folder = tmp_path / f"in {UNDECODABLE}"
    for seed, name in enumerate((*NAMES.values(), "plain")):
        picture(folder / f"{name}.png", seed)
    study = study_of(slides={"mask": "all", "mpp": 0.5})
    found = read_cohort(f"{folder}/*.png")
    assert len(found.rows) == len(NAMES) + 1
    assert "plain" not in {finding.id for finding in found.findings}
    assert all(json.dumps(row.slide, ensure_ascii=False).encode() for row in found.rows)

    table = tmp_path / "cohort.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["slide", "id"], *([row.slide, f"id{row.number}"] for row in found.rows)])
    out = tmp_path / f"out {UNDECODABLE}"
    result = run_cohort(plan_of(table, study), out)
    assert result.complete, result.plan.findings
    with write_summary(out)[0].open(encoding="utf-8") as stream:
        assert [row["complete"] for row in csv.DictReader(stream)] == ["True"] * len(found.rows)
    page = write_batch_report(out).read_text(encoding="utf-8")
    assert "id1" in page
    status = qwenvl("batch", "status", out, "--json")
    assert json.loads(status.output)["complete"] is True
    with RunStore.open(out / "id1") as store:
        slide = reopen(store.manifest.slide).slide
        assert slide is not None
        slide.close()
