"""What a run is missing is said at once and before a model is loaded; what is advised is accepted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cohort_helpers import REQUEST as COHORT
from cohort_helpers import plan_of, study_of
from hypothesis import given, settings
from hypothesis import strategies as st
from icc_profiles import as_srgb, gray_profile, rgb_profile
from PIL import Image
from typer.testing import CliRunner, Result

from qwenvl.checkpoints.testing import tiny_checkpoint
from qwenvl.cli import load_commands
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows import run_slide
from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.check import check_rows
from workflows.errors import RunMismatchError
from workflows.inputs.fit import finer_scale, fit_advice, fitting_tiles
from workflows.inputs.needed import require_all
from workflows.store.run_store import RunStore
from wsi import ColourError, PlaneError, UnknownMppError, open_slide
from wsi.errors import GridError
from wsi.grid import side_of_tile


def run(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


def stack(path: Path, side: int = 300, mpp: float | None = None) -> Path:
    """Three depths of two 16-bit channels with cells on a dark ground."""
    noise = np.random.default_rng(0).integers(0, 400, (3, 2, side, side)).astype(np.uint16)
    noise[..., side // 4 : side // 2, side // 4 : side // 2] += 3000
    metadata: dict[str, object] = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "Ki67"]}}
    if mpp:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
    tifffile.imwrite(path, noise, photometric="minisblack", metadata=metadata)
    return path


def photo(path: Path, width: int = 400, height: int = 300, profile: bytes | None = None) -> Path:
    pixels = np.random.default_rng(1).integers(60, 200, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **({} if profile is None else {"icc_profile": profile}))
    return path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure of the test."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("workflows.run.options.load_engine", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], ["--plane z=0,t=0", "--rendering 0:red:auto,1:green:auto", "--slide-mpp 0.25", "--native"]),
        (["--plane", "z=1"], ["--rendering 0:red:auto,1:green:auto", "--slide-mpp 0.25", "--native"]),
        (["--plane", "z=9", "--native"], ["z from 0 to 2", "--rendering 0:red"]),
        (["--rendering", "0:blue:auto"], ["--plane z=0,t=0", "--slide-mpp"]),
        (["--plane", "3", "--rendering", "blue", "--slide-mpp", "1"], ["Write it like z=3", "index:colour:low-high"]),
        (["--native", "--colour", "srgb"], ["--plane", "--rendering", "leave out --colour srgb"]),
        (["--rendering", "0,1", "--where", "Is there tumor?"], ["--plane", "0:gray:auto", "--slide-mpp 0.25)"]),
    ],
)
def test_all_that_is_missing_is_said_at_once(flags: list[str], named: list[str], tmp_path: Path) -> None:
    result = run("detect", stack(tmp_path / "a.ome.tif"), *flags, "-o", tmp_path / "run")
    assert result.exit_code == 1, result.output
    words = " ".join(result.output.split())
    for each in named:
        assert each in words
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
def test_images_planes_and_frames_come_together(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        for name in ("left", "right"):
            pixels = np.zeros((3, 300, 300), np.uint16)
            tif.write(pixels, photometric="minisblack", metadata={"axes": "ZYX", "Name": name})
    words = " ".join(run("detect", path).output.split())
    for each in ("left", "right", "--series 0", "--plane z=0,t=0", "--slide-mpp", "--native"):
        assert each in words
    assert "--rendering" not in words  # one channel is gray by itself


def test_a_single_fault_keeps_its_kind(tmp_path: Path) -> None:
    request = Request(task="detect", labels=("nucleus",), mpp=0.5, tile_size=224)
    with pytest.raises(UnknownMppError, match="--slide-mpp"):
        require_all(photo(tmp_path / "a.png"), request=request)
    with pytest.raises(GridError, match=r"at most 192 px: --tile-size 192 --overlap 64|--tile-size 192\."):
        require_all(tmp_path / "a.png", request=request, mpp=0.3375, factor=32)
    with pytest.raises(ColourError, match="gray by hand"):
        require_all(photo(tmp_path / "b.png", profile=gray_profile()), options={"colour": "srgb"})
    require_all(photo(tmp_path / "c.png", profile=rgb_profile(1.8)), options={"colour": "srgb"})
    with pytest.raises(PlaneError, match="--plane"):
        require_all(stack(tmp_path / "d.ome.tif", mpp=0.5), request=request, options={"rendering": "0::auto"})


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 6000),
    height=st.integers(1, 6000),
    tile=st.integers(1, 256).map(lambda n: 32 * n),
    overlap=st.integers(0, 4096),
    factor=st.sampled_from([28, 32]),
    mpp=st.one_of(st.none(), st.floats(0.05, 8)),
    stated=st.one_of(st.none(), st.tuples(st.floats(0.1, 2), st.floats(0.1, 2))),
)
def test_the_size_advised_is_accepted(width, height, tile, overlap, factor, mpp, stated) -> None:
    if stated is None and mpp is not None:
        stated = (0.5, 0.5)
    request = Request(task="detect", labels=("a",), tile_size=tile, overlap=min(overlap, tile // 2), mpp=mpp)
    try:
        side_of_tile((width, height), tile_size=tile, mpp=mpp, mpp_xy=stated)
    except GridError as error:
        words = fit_advice(error, request, stated, factor)
    else:
        return
    advised = dict(re.findall(r"(--[a-z-]+) ([\d.]+(?:e-\d+)?)(?=[ .])", words + " "))
    advised = {flag: float(value.rstrip(".")) for flag, value in advised.items()}
    chosen = request.model_copy(update={"tile_size": int(advised["--tile-size"])})
    overlap = int(advised.get("--overlap", request.overlap))
    Request(**dict(chosen) | {"overlap": overlap})  # accepted by the request
    finer = advised.get("--mpp", mpp)
    scale = (advised["--slide-mpp"],) * 2 if "--slide-mpp" in advised else stated
    side_of_tile((width, height), tile_size=chosen.tile_size, mpp=finer, mpp_xy=scale)
    smallest = -(-32 // factor) * factor
    assert chosen.tile_size % factor == 0 or chosen.tile_size < smallest
    assert "--mpp" not in advised or advised["--mpp"] > 0


def test_sizes_known_beforehand() -> None:
    assert fitting_tiles(300.0, 64, 32) == (288, 64)
    assert fitting_tiles(300.0, 64, 28) == (280, 64)
    assert fitting_tiles(100.0, 64, 32) == (96, 48)
    assert fitting_tiles(33.0, 64, 28) == (33, 16)
    assert fitting_tiles(31.9, 64, 32) is None
    assert finer_scale(20.0, 0.5, 32) == 0.312


@pytest.mark.parametrize("family", ["Qwen3-VL", "Qwen2.5-VL"])
def test_the_advice_runs(family: str, tmp_path: Path) -> None:
    model = tiny_checkpoint(family, tmp_path / "tiny")
    path = photo(tmp_path / "a.png", 150, 120)
    out = ["-m", model, "-o", tmp_path / "run", "--mask", "all", "--max-new-tokens", "4"]
    refused = run("describe", path, "--native", *out)
    side, overlap = {"Qwen3-VL": ("96", "48"), "Qwen2.5-VL": ("112", "56")}[family]
    assert f"--tile-size {side} --overlap {overlap}" in " ".join(refused.output.split())
    done = run("describe", path, "--native", *out, "--tile-size", side, "--overlap", overlap)
    assert done.exit_code in (0, 3), done.output
    assert (tmp_path / "run" / "report.json").exists()


# ---------------------------------------------------------------------- colours


REQUEST = Request(task="describe", tile_size=128, overlap=0)


def _hash(**fields: object) -> str:
    return Request(**dict(REQUEST) | fields).hash


def test_the_hash_of_a_request_knows_colours_that_are_not_stored_ones() -> None:
    assert REQUEST.hash == "sha256:ac9c733e155032f7bdd32ec61a969a8b"  # as before there was a choice of colours
    assert _hash() == _hash(colour="stored") != _hash(colour="srgb")
    assert Request(**dict(REQUEST) | {"colour": "srgb"}).question != REQUEST.question


def test_runs_in_srgb_are_other_runs(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 256, 256, rgb_profile(1.0))
    engine = FakeEngine()
    stored = run_slide(path, REQUEST, engine, tmp_path / "a", mask="all")
    asked = run_slide(path, REQUEST.model_copy(update={"colour": "srgb"}), engine, tmp_path / "b", mask="all")
    opened = run_slide(path, REQUEST, engine, tmp_path / "c", mask="all", slide_options={"colour": "srgb"})
    with open_slide(path, colour="srgb") as slide:
        given_open = run_slide(slide, REQUEST, engine, tmp_path / "d", mask="all")
        slide.read(0, 0, 8, 8)  # stays open
    ids = [each.report.provenance.run_id for each in (stored, asked, opened, given_open)]
    assert ids[0] != ids[1] == ids[2] == ids[3]
    assert {each.report.provenance.request_hash for each in (asked, opened, given_open)} == {_hash(colour="srgb")}
    assert stored.report.slide.options == {}
    assert asked.report.slide.options == {"colour": "srgb"}
    assert "made by hand" in asked.report.slide.notes[-1]
    with pytest.raises(RunMismatchError, match="request"):
        run_slide(path, REQUEST, engine, tmp_path / "b", mask="all")
    with RunStore.open(tmp_path / "b") as store:
        from workflows.inputs.reopening import reopen

        slide = reopen(store.manifest.slide).slide
        assert slide is not None
        with slide, Image.open(path) as image:
            first = np.asarray(image)[0, 0]
            np.testing.assert_allclose(slide.read(0, 0, 1, 1)[0, 0], as_srgb(tuple(first), 1.0), atol=1.01)


def test_the_flag_reaches_report_and_html_and_repeats(tmp_path: Path) -> None:
    model = tiny_checkpoint("Qwen3-VL", tmp_path / "tiny")
    path = photo(tmp_path / "a.png", 128, 128, rgb_profile(1.8))
    flags = ["--native", "--tile-size", "128", "--mask", "all", "-m", model, "--max-new-tokens", "4"]
    done = run("score", path, "Is it?", *flags, "--colour", "srgb", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["request"]["colour"] == "srgb"
    assert report["slide"]["options"] == {"colour": "srgb"}
    assert run("report", tmp_path / "run", "--html").exit_code == 0
    assert "made by hand" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    again = run("repeat", tmp_path / "run", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    other = json.loads((tmp_path / "again" / "report.json").read_text())
    assert other["provenance"]["run_id"] == report["provenance"]["run_id"]
    refused = run("score", path, "Is it?", *flags, "--colour", "lab", "-o", tmp_path / "no")
    assert refused.exit_code == 2
    assert "srgb" in refused.output


def test_a_row_of_a_cohort_says_all_it_misses_and_a_study_names_its_colours(tmp_path: Path) -> None:
    stack(tmp_path / "a.ome.tif")
    photo(tmp_path / "b.png", profile=rgb_profile(1.8))
    (tmp_path / "cohort.csv").write_text("slide,mpp\na.ome.tif,\nb.png,0.5\n")
    plan = plan_of(tmp_path / "cohort.csv", study_of(request=COHORT | {"colour": "srgb"}))
    assert plan.slide_options["colour"] == "srgb"
    row, other = check_rows(plan, BatchFolder(tmp_path / "out"))
    for words in ("--plane z=0,t=0", "--rendering 0:red:auto,1:green:auto", "--slide-mpp 0.25"):
        assert words in (row.problem or "")
    assert other.problem is None
