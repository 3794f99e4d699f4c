"""Answers about a film as layers on its axis."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from napari_qwenvl.layers.science.timelapse import add_timelapse, timelapse_layers
from qwenvl.request import Request
from workflows.errors import RunNotFoundError, StackError
from workflows.science.timelapse.run import ask_frames, choose_frames
from workflows.science.timelapse.stack import Stack, open_stack

sys.path.append(str(Path(__file__).parent.parent / "workflows" / "timelapse"))
from film_helpers import SIDE, SPOTS, SpotEngine, spots_film, write_stack


@pytest.fixture
def path(tmp_path: Path) -> Path:
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "TimeIncrement": 60, "TimeIncrementUnit": "s"}
    return write_stack(tmp_path / "film.ome.tif", spots_film(), **scale)


def ask_all(stack: Stack, request: Request, out: Path) -> None:
    """Every frame, by an engine that sees bright spots."""
    ask_frames(stack, SpotEngine(), request, choose_frames(stack, SpotEngine(), side=96, budget=None), out)


def test_tracks_and_boxes_lie_on_the_time_axis(path: Path, tmp_path: Path) -> None:
    stack = open_stack(path)
    request = Request(task="detect", labels=("spot",), tile_size=96, overlap=0)
    ask_all(stack, request, tmp_path / "out")
    layers = {kind: (data, facts) for data, facts, kind in timelapse_layers(tmp_path / "out")}
    assert set(layers) == {"image", "shapes", "points", "tracks"}
    for _, facts in layers.values():
        assert facts["scale"] == (1.0, 0.25, 0.5)
        assert facts["axis_labels"] == ("frame", "y", "x")
        assert facts["metadata"]["places"][2] == 120.0
    film = layers["image"][0]
    assert film.shape == (10, SIDE, SIDE, 3)
    assert np.array_equal(np.asarray(film[6]), spots_film()[6])
    corners, facts = layers["shapes"]
    for corner, track, place in zip(corners, facts["features"]["track"], facts["features"]["place"], strict=True):
        t = int(corner[0, 0])
        assert place == 60.0 * t
        assert corner[:, 1:].min(axis=0) == pytest.approx((10 + 28 * track, 8 + 4 * t), abs=0.6)
        assert corner[:, 1:].max(axis=0) == pytest.approx((22 + 28 * track, 20 + 4 * t), abs=0.6)
    lines = layers["tracks"][0]
    assert len(lines) == 10 * SPOTS
    assert all(np.diff(lines[lines[:, 0] == k, 1]).tolist() == [1.0] * 9 for k in range(SPOTS))


def test_ranges_frame_their_frames_in_a_viewer(path: Path, tmp_path: Path) -> None:
    from napari.components import ViewerModel

    stack = open_stack(path)
    request = Request(task="score", prompt="Is it bright?", tile_size=96, overlap=0)
    ask_all(stack, request, tmp_path / "out")
    viewer = ViewerModel()
    film, answer = add_timelapse(viewer, tmp_path / "out")
    assert (film.name, answer.name) == ("film film", "film answer")
    assert sorted({int(corner[0, 0]) for corner in answer.data}) == [4, 5, 6, 7]
    assert np.ptp(answer.data[0][:, 1:], axis=0).tolist() == [SIDE, SIDE]
    assert viewer.dims.current_step[0] == 4


@pytest.mark.parametrize("name", ["", "timelapse.json"])
def test_napari_opens_the_folder_and_its_report(path: Path, tmp_path: Path, name: str) -> None:
    """By the manifest's readers, of which the one of runs on slides lets it be."""
    import npe2

    from napari_qwenvl.read.readers import get_run_reader

    request = Request(task="score", prompt="Is it bright?", tile_size=96, overlap=0)
    ask_all(open_stack(path), request, tmp_path / "out")
    assert get_run_reader(str(tmp_path / "out")) is None
    npe2.PluginManager.instance().discover()
    layers, used = npe2.io_utils.read_get_reader(
        [str(tmp_path / "out" / name)], plugin_name="napari-qwenvl", stack=False
    )
    assert used.command == "napari-qwenvl.read_timelapse"
    assert [kind for _, _, kind in layers] == ["image", "shapes"]


def test_another_file_in_its_place_is_not_shown(path: Path, tmp_path: Path) -> None:
    stack = open_stack(path)
    request = Request(task="score", prompt="Is it bright?", tile_size=96, overlap=0)
    ask_all(stack, request, tmp_path / "out")
    stack.close()
    path.unlink()
    assert [kind for _, _, kind in timelapse_layers(tmp_path / "out")] == ["shapes"]
    write_stack(path, spots_film(bright=(1, 2)), TimeIncrement=60, TimeIncrementUnit="s")
    with pytest.raises(StackError, match="changed since"):
        timelapse_layers(tmp_path / "out")
    with pytest.raises(RunNotFoundError):
        timelapse_layers(tmp_path)
