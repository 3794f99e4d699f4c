"""Exports, HTML and summary on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_helpers import MemorySlide, request_of
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.run.slide import run_slide


def qwenvl(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    request = request_of(Task.DETECT, tile_size=200, overlap=0, mpp=None)
    run_slide(MemorySlide(400, 400), request, FakeEngine(boxes=3), tmp_path / "run", mask="all")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("flags", "name", "said"),
    [
        (["geojson"], "x.geojson.gz", "features"),
        (["csv"], "x.csv", "rows"),
        (["csv", "--tiles"], "x.csv.gz", "4 rows"),
        (["parquet"], "x.parquet", "rows"),
        (["parquet", "--tiles"], "x.parquet", "4 rows"),
        (["anndata"], "x.zarr", "observations"),
        (["anndata", "--tiles"], "x.h5ad", "4 observations"),
        (["spatialdata", "--no-picture"], "x.zarr", "shapes"),
        (["labels", "--downsample", "2"], "x.zarr", "objects"),
        (["heatmap"], "x.zarr", "2 channels"),
        (["coco"], "x.json", "annotations"),
        (["coco", "--tiles"], "x.json.gz", "annotations"),
        (["html"], "x.html", "browser"),
    ],
    ids=lambda of: " ".join(of) if isinstance(of, list) else "",
)
def test_export(flags: list[str], name: str, said: str, run: Path, tmp_path: Path) -> None:
    if flags[0] in ("parquet", "spatialdata"):
        pytest.importorskip("pyarrow")
    if name.endswith("h5ad"):
        pytest.importorskip("h5py")
    out = tmp_path / name
    first = qwenvl("export", *flags, run, "-o", out)
    assert first.exit_code == 0, first.output
    assert said in first.output
    assert out.exists()
    again = qwenvl("export", *flags, run, "-o", out)
    assert again.exit_code == 1
    assert "--overwrite" in again.output
    assert qwenvl("export", *flags, run, "-o", out, "--overwrite").exit_code == 0


def test_report_in_html_and_for_several_runs(run: Path, tmp_path: Path) -> None:
    done = qwenvl("report", run, "--html")
    assert done.exit_code == 0, done.output
    assert "report.html" in done.output
    assert (run / "report.html").is_file()
    done = qwenvl("export", "html", run, run, "-o", tmp_path / "cohort.html", "--title", "Two")
    assert done.exit_code == 0, done.output
    assert "<title>Two</title>" in (tmp_path / "cohort.html").read_text()
    nothing = qwenvl("export", "html", tmp_path, "-o", tmp_path / "z.html")
    assert nothing.exit_code == 1
    assert not (tmp_path / "z.html").exists()


def test_summarise_names_what_is_wrong(run: Path, tmp_path: Path) -> None:
    done = qwenvl("summarise", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert "holds no run" in done.output
