"""Stacks from file to report: times are the file's own, a killed run goes on, faults are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from film_helpers import SIDE, SPOTS, SpotEngine, spots_film, write_stack
from PIL import Image
from typer.testing import CliRunner

from qwenvl.request import Request
from workflows.errors import RunMismatchError, StackError
from workflows.science.timelapse.picture import write_timeline
from workflows.science.timelapse.report import TimelapseReport
from workflows.science.timelapse.run import ask_film, ask_frames, choose_frames
from workflows.science.timelapse.sampling import frame_changes
from workflows.science.timelapse.stack import open_stack
from workflows.science.timelapse.strip import fit_tiles
from workflows.store.run_store import RunStore
from wsi.errors import SlideChangedError

SCORE = Request(task="score", prompt="Is it bright?", tile_size=96, overlap=0)
DETECT = Request(task="detect", labels=("spot",), tile_size=96, overlap=0)
UNEVEN = [0.0, 60.0, 120.0, 200.0, 300.0, 310.0, 320.0, 400.0, 500.0, 900.0]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    planes = {"DeltaT": UNEVEN, "DeltaTUnit": ["s"] * 10}
    return write_stack(tmp_path / "film.ome.tif", spots_film(), Plane=planes, PhysicalSizeX=0.5, PhysicalSizeY=0.5)


def test_when_frame_by_frame(film: Path, tmp_path: Path) -> None:
    stack = open_stack(film)
    engine = SpotEngine()
    sampling = choose_frames(stack, engine, side=96, budget=None)
    report = ask_frames(stack, engine, SCORE, sampling, tmp_path / "out", bridge=0)
    assert [(r.first, r.last, r.start, r.end) for r in report.ranges] == [(4, 7, 300.0, 400.0)]
    assert [frame.score for frame in report.frames] == [float(4 <= t <= 7) for t in range(10)]
    assert report.stack.places == tuple(UNEVEN)
    assert report.stack.source == "file"
    assert report.complete
    assert TimelapseReport.read(tmp_path / "out") == report
    # A frame that failed is not known, and neither begins nor ends a range.
    broken = ask_frames(stack, SpotEngine(fail=frozenset({5})), SCORE, sampling, tmp_path / "broken", bridge=0)
    assert broken.frames[5].status == "failed"
    assert broken.frames[5].score is None
    assert [(r.first, r.last) for r in broken.ranges] == [(4, 4), (6, 7)]
    assert not broken.complete
    again = ask_frames(stack, engine, SCORE, sampling, tmp_path / "broken", bridge=0)
    assert again.ranges == report.ranges


def test_a_killed_run_goes_on_and_ends_alike(film: Path, tmp_path: Path) -> None:
    stack = open_stack(film)
    sampling = choose_frames(stack, SpotEngine(), side=96, budget=None)
    with pytest.raises(KeyboardInterrupt):
        ask_frames(stack, SpotEngine(stop_after=4), DETECT, sampling, tmp_path / "out")
    engine = SpotEngine()
    report = ask_frames(stack, engine, DETECT, sampling, tmp_path / "out")
    assert len(engine.asked) == 6
    whole = ask_frames(stack, SpotEngine(), DETECT, sampling, tmp_path / "whole")
    left_out = {"created", "command"}
    assert report.model_dump(exclude=left_out) == whole.model_dump(exclude=left_out)
    assert (tmp_path / "out" / "tracks.csv").read_bytes() == (tmp_path / "whole" / "tracks.csv").read_bytes()
    with pytest.raises(RunMismatchError):
        ask_frames(stack, SpotEngine(), SCORE, sampling, tmp_path / "out")


@pytest.mark.parametrize("tile", [96, 64])
def test_objects_come_back_in_px_of_their_frame_and_are_followed(film: Path, tmp_path: Path, tile: int) -> None:
    """Also where a frame is several tiles and objects are merged across their seams."""
    stack = open_stack(film)
    request = DETECT.model_copy(update={"tile_size": tile, "overlap": 0 if tile == 96 else 24})
    sampling = choose_frames(stack, SpotEngine(), side=96, budget=None)
    report = ask_frames(stack, SpotEngine(), request, sampling, tmp_path / "out")
    assert report.tracks is not None
    assert (report.tracks.tracks, report.tracks.objects) == (SPOTS, 10 * SPOTS)
    with (tmp_path / "out" / "tracks.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        t, k = int(row["frame"]), int(row["track"])
        expected = (8 + 4 * t, 10 + 28 * k, 20 + 4 * t, 22 + 28 * k)
        assert [float(row[side]) for side in ("x_min", "y_min", "x_max", "y_max")] == pytest.approx(expected, abs=0.6)
        assert float(row["place"]) == UNEVEN[t]
    path = write_timeline(tmp_path / "out", report, stack)
    with Image.open(path) as picture:
        assert picture.size[0] == 1400


def test_when_of_the_whole_film(film: Path) -> None:
    stack = open_stack(film)
    engine = SpotEngine()
    sampling = choose_frames(stack, engine, side=96, budget=None)
    request = Request(task="ask", prompt="When is it bright?")
    report = ask_film(stack, engine, request, sampling, when=True)
    assert [(r.first, r.last, r.start, r.end) for r in report.ranges] == [(4, 7, 300.0, 400.0)]
    assert report.stamps[3:6] == ("<200.0 seconds>", "<300.0 seconds>", "<310.0 seconds>")
    minutes = ask_film(stack, engine, request, sampling, when=True, unit="minutes")
    assert minutes.stamps[1] == "<1.00 minutes>"
    assert minutes.ranges == report.ranges
    assert "in minutes" in str(minutes.request.prompt)
    with pytest.raises(StackError, match="does not fit"):
        ask_film(stack, engine, request, sampling, unit="um")


def test_a_film_on_which_the_engine_raises_is_a_report_of_a_failed_answer(film: Path) -> None:
    class Raising(SpotEngine):
        def answer(self, pictures: Any, request: Request) -> Any:
            raise ValueError("planted")

    stack = open_stack(film)
    sampling = choose_frames(stack, SpotEngine(), side=96, budget=None)
    report = ask_film(stack, Raising(), Request(task="ask", prompt="When is it bright?"), sampling, when=True)
    assert report.answer is not None
    assert (report.answer.status, report.complete, report.ranges) == ("failed", False, ())
    assert "planted" in str(report.answer.error)


def test_the_budget_goes_where_things_change(tmp_path: Path) -> None:
    stack = open_stack(write_stack(tmp_path / "ground.ome.tif", spots_film(spots=0)), interval="1min")
    changes = frame_changes(stack)
    assert sorted(np.argsort(changes)[-2:].tolist()) == [3, 7]
    sampling = choose_frames(stack, SpotEngine(), side=96, budget=6 * 21)
    assert (sampling.how, len(sampling.frames)) == ("changes", 6)
    assert {3, 4, 7, 8} <= set(sampling.frames)
    assert choose_frames(stack, SpotEngine(), side=96, budget=None, count=4, even=True).frames == (0, 3, 6, 9)
    with pytest.raises(StackError, match="too small for two frames"):
        choose_frames(stack, SpotEngine(), side=96, budget=30)


@pytest.mark.parametrize(
    ("mpp", "tile", "fitted"), [(None, 64, 64), (None, 224, 96), (0.25, 224, 192), (0.25, 96, 96), (8.0, 224, 224)]
)
def test_tiles_are_no_larger_than_frames(film: Path, mpp: float | None, tile: int, fitted: int) -> None:
    request = Request(task="detect", labels=("spot",), mpp=mpp, tile_size=tile, overlap=tile // 3)
    found = fit_tiles(open_stack(film), request, 32)
    assert (found.tile_size, found.overlap) == (fitted, tile // 3 if fitted == tile else min(tile // 3, fitted // 4))


def _pages(path: Path) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for page in spots_film(4)[..., 0]:
            writer.write(page, contiguous=False, metadata=None)
    return path


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda p: write_stack(p, spots_film(4)), {}, ["does not say when", "--interval"]),
        (lambda p: write_stack(p, spots_film(4)), {"axis": "z"}, ["one frame only along z"]),
        (lambda p: write_stack(p, spots_film(4)), {"interval": "soon"}, ["no step in time"]),
        (lambda p: write_stack(p, spots_film(4)), {"interval": "1s", "other": 2}, ["--at 2", "0 to 0"]),
        (lambda p: write_stack(p, spots_film(1)), {"interval": "1s"}, ["one frame only"]),
        (_pages, {"interval": "1s"}, ["--axis t", "does not say"]),
        (_pages, {"axis": "t"}, ["does not say when", "--interval 5min"]),
        (_pages, {"axis": "z"}, ["how deep", "0.5um"]),
        (_pages, {"axis": "c"}, ["time (t) or depth (z)"]),
    ],
)
def test_bad_input(tmp_path: Path, make: Any, options: dict[str, Any], words: list[str]) -> None:
    path = make(tmp_path / "bad.ome.tif" if make is not _pages else tmp_path / "bad.tif")
    with pytest.raises(StackError) as caught:
        open_stack(path, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_pages_without_a_name_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    path = _pages(tmp_path / "pages.tif")
    film = open_stack(path, axis="t", interval="2min")
    assert (film.axis, film.stored, film.places) == ("t", "z", (0.0, 120.0, 240.0, 360.0))
    depth = open_stack(path, axis="z", interval=0.5)
    assert (depth.unit, depth.places) == ("um", (0.0, 0.5, 1.0, 1.5))
    for t in range(4):
        assert np.array_equal(film.picture(t, (SIDE, SIDE))[..., 0], spots_film(4)[t, ..., 0])


def test_real_stacks_say_their_own_times(real_data: Path) -> None:
    folder = real_data / "microscopy"
    with pytest.raises(StackError, match="--axis t or --axis z"):
        open_stack(folder / "multi_tzcyx.tiff", options={"rendering": "0:gray:auto"})
    film = open_stack(folder / "multi_tzcyx.tiff", axis="t", other=1, options={"rendering": "0:gray:auto,1:green:auto"})
    assert (film.places, film.source) == ((0.0, 10.0), "file")
    depth = open_stack(folder / "multi_tzcyx.tiff", axis="z", options={"rendering": "0:gray:auto"})
    assert depth.places == (0.0, 0.125, 0.25)
    cells = open_stack(folder / "zcyx.tiff", options={"rendering": "0:red,1:green"})
    assert (len(cells), cells.axis) == (25, "z")
    assert cells.places[1] == pytest.approx(0.054455)
    with pytest.raises(StackError, match="does not say when"):
        open_stack(folder / "4D-series.ome.tiff", axis="t", options={"rendering": "0:gray:auto"})
    with pytest.raises(StackError, match="one frame only"):
        open_stack(folder / "random_cyx_v05.zarr", options={"rendering": "0:gray:auto"})


def test_the_commands(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workflows.commands import app
    from workflows.run import options as run_options

    monkeypatch.setattr(run_options, "load_engine", lambda run: (SpotEngine(), {"tile_size": 96, "overlap": 0}))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["timelapse", *words])
        assert result.exit_code == code, result.output
        return result.output

    assert "frames 4 to 7: 300 to 400 seconds" in run("when", str(film), "Is it bright?", "--bridge", "0", "-o", "when")
    assert "30 objects in 3 tracks" in run("track", str(film), "-l", "spot")
    assert json.loads((tmp_path / "film.tracks" / "timelapse.json").read_text())["kind"] == "track"
    assert (tmp_path / "film.tracks" / "timeline.png").is_file()
    by_film = ("when", str(film), "When is it bright?", "--by", "film", "--side", "96", "--frames", "8", "-o", "film")
    assert "seconds" in run(*by_film)
    assert "holds an answer already" in run(*by_film, code=1)
    run(*by_film, "--overwrite")
    assert (tmp_path / "film.bak-1" / "timelapse.json").is_file()
    assert "4 of 10 frames" in run("ask", str(film), "What happens?", "--frames", "4", "--dry-run", "-o", "dry")
    assert not (tmp_path / "dry").exists()
    assert "frames are asked whole" in run("track", str(film), "--where", "Is there tumor?", code=2)
    assert "choose frames or film" in run("when", str(film), "Is it?", "--by", "tile", code=2)
    bare = write_stack(tmp_path / "bare.ome.tif", spots_film(4))
    assert "--interval" in run("when", str(bare), "Is it bright?", code=1)
    assert "no range" in run("when", str(bare), "Is it bright?", "--interval", "1min", "-o", "bare")


class Rewriting(SpotEngine):
    """Rewrites the film after its second batch was read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def answer(self, pictures: Any, request: Request) -> Any:
        told = super().answer(pictures, request)
        if len(self.asked) == 4:
            write_stack(self._path, spots_film(bright=(1, 2)), PhysicalSizeX=0.5, PhysicalSizeY=0.5)
        return told


def test_a_film_that_is_rewritten_ends_the_run(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with_stack = open_stack(film)
    engine = Rewriting(film)
    sampling = choose_frames(with_stack, engine, side=96, budget=None)
    with pytest.raises(SlideChangedError, match=r"film\.ome\.tif changed"):
        ask_frames(with_stack, engine, SCORE, sampling, out)
    assert len(engine.asked) == 4
    assert not (out / "timelapse.json").exists()
    with RunStore.open(out) as store:
        assert store.finished().tolist() == [0, 1]
    with pytest.raises(SlideChangedError):
        ask_film(with_stack, engine, Request(task="ask", prompt="What?"), sampling)
