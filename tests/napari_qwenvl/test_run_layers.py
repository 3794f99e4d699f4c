"""A run folder in the viewer: what is shown where, and that unknown is never shown as negative."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

from napari.components import ViewerModel

from napari_qwenvl.layers import run_layers
from napari_qwenvl.layers.heatmap import hatched_tiles, heatmap_layers, heatmap_of, set_threshold
from napari_qwenvl.layers.keys import RUN
from napari_qwenvl.read.readers import get_run_reader
from napari_qwenvl.read.slide_layer import slide_of
from qwenvl.answer import Answer, Status
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows import export_geojson, read_heatmap
from workflows.report.images.colours import label_colours
from workflows.run.slide import run_slide
from workflows.tile_table import unpack_key
from wsi.synthetic import Scene, write_slide

MPP = 0.5
SIZE = 560, 448
DETECT = Request(task="detect", labels=("tumor", "stroma"), tile_size=224, overlap=0, mpp=MPP)
SCORE = Request(task="score", prompt="Is there tumor?", tile_size=224, overlap=0, mpp=MPP)
CLASSES = Request(task="classify", labels=("tumor", "stroma"), tile_size=224, overlap=0, mpp=MPP)


class FailsFirst(FakeEngine):
    """Fails on the first tile it is asked about."""

    asked = 0

    def answer(self, pictures, request):
        answers = super().answer(pictures, request)
        if not self.asked:
            answers[0] = Answer(Status.FAILED, error="planted")
        self.asked += len(answers)
        return answers


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "tissue.svs"
    write_slide(path, Scene(SIZE[0] * MPP, SIZE[1] * MPP, seed=4), mpp=MPP, downsamples=(1, 4), truth=False)
    return path


@pytest.fixture(scope="module")
def runs(slide, tmp_path_factory):
    """Folders of runs by their task; the first tile of each failed."""
    base = tmp_path_factory.mktemp("runs")
    for request in (DETECT, SCORE, CLASSES):
        run_slide(slide, request, FailsFirst(12, batch=1), base / request.task, mask="all", overview=False)
    return base


@pytest.fixture
def messages(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(run_layers, "_say", said.append)
    return said


def names(layers):
    return [options["name"] for _, options, _ in layers]


def test_a_run_of_objects_shows_slide_tissue_failed_tiles_and_its_merged_objects(runs, tmp_path):
    folder = runs / "detect"
    layers = run_layers.folder_layers(folder)
    assert names(layers)[0] == "tissue"
    assert slide_of(type("Layer", (), {"data": layers[0][0]})) is not None
    assert "failed: 1 of 6 tiles" in names(layers)
    viewer = ViewerModel()
    overlay = run_layers.add_objects(viewer, folder)
    assert overlay is not None
    assert overlay.labels == ["tumor", "stroma"]
    export_geojson(folder, tmp_path / "out.geojson")
    exported = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert len(overlay) == len(exported) > 20
    rings = {
        (f["properties"]["metadata"]["tile"], f["properties"]["metadata"]["item"]): f["geometry"]["coordinates"][0]
        for f in exported
    }
    for key, box in zip(overlay.objects.key.tolist(), overlay.objects.box.tolist(), strict=True):
        ring = rings[tuple(str(part) for part in unpack_key(key))]
        assert ring[0] + ring[2] == pytest.approx(box, abs=0.006)
    assert run_layers.overlays(viewer) == [overlay]
    assert overlay.layer.metadata[RUN] == str(folder)


def test_a_failed_tile_is_unknown_in_the_heatmap_and_hatched_not_low(runs):
    layers = {options["name"]: (data, options) for data, options, _ in run_layers.folder_layers(runs / "score")}
    values, options = layers["yes: probability"]
    cell = 224 // round(options["scale"][0] / MPP)
    assert np.isnan(values[:cell, :cell]).all()
    assert np.isfinite(values[:cell, cell:]).all()
    assert options["contrast_limits"] == (0, 1)
    assert options["visible"]
    picture, placed = layers["failed: 1 of 6 tiles"]
    for name, shape, place in (("heatmap", values.shape, options), ("failed", picture.shape[:2], placed)):
        low = np.array(place["translate"]) - np.array(place["scale"]) / 2
        assert low == pytest.approx((-MPP / 2, -MPP / 2)), f"{name} begins at the corner of the slide"
        high = low + np.array(shape) * place["scale"]
        end = np.array(SIZE[::-1]) * MPP - MPP / 2
        assert ((end - 1e-6 <= high) & (high < end + np.array(place["scale"]))).all(), f"{name} ends with it"
    assert picture[100, 100, 3] > 0
    assert picture[100, 300, 3] == 0


def test_a_threshold_hides_and_gives_back(runs):
    viewer = ViewerModel()
    for data, options, _ in run_layers.folder_layers(runs / "score"):
        if options["name"] == "yes: probability":
            layer = viewer.add_image(data, **options)
    values = heatmap_of(layer)
    middle = float(np.nanmedian(values))
    set_threshold(layer, middle)
    assert np.array_equal(np.isfinite(layer.data), np.nan_to_num(values, nan=-1) >= middle)
    set_threshold(layer, None)
    assert np.array_equal(layer.data, values, equal_nan=True)
    assert heatmap_of(viewer.add_points(None)) is None


def test_classes_are_one_picture_in_their_colours(runs):
    heatmap = read_heatmap(runs / "classify")
    [(picture, options, _), *others] = heatmap_layers(heatmap, run_layers.Frame.of(MPP), CLASSES, SIZE)
    assert options["name"] == "classes"
    assert picture[0, 0, 3] == 0, "the failed tile has no class"
    times = round(224 * MPP / options["scale"][0])
    chosen = heatmap.values.argmax(axis=0)
    for row, column in np.argwhere(np.isfinite(heatmap.values[0])):
        shown = tuple(picture[row * times, column * times].tolist())
        assert shown == (*label_colours(CLASSES.labels)[CLASSES.labels[chosen[row, column]]], 255)
    assert [options["visible"] for _, options, _ in others] == [False, False]


def test_hatched_tiles_lie_where_the_tiles_are_and_leave_the_rest_clear():
    rects = np.array([[0, 0, 1000, 1000], [90_000, 50_000, 1000, 2000]])
    picture, step = hatched_tiles(rects, (100_000, 60_000), (200, 0, 0))
    assert max(picture.shape) == 2048
    covered = picture[..., 3] > 0
    rows, columns = np.nonzero(covered)
    assert (columns.max() * step, rows.max() * step) == pytest.approx((91_000, 52_000), abs=2 * step)
    assert covered.sum() * step**2 == pytest.approx(3e6, rel=0.2)


def test_a_run_folder_is_known_by_its_journal_alone(runs, tmp_path):
    assert get_run_reader(str(runs / "detect")) is not None
    assert get_run_reader(str(runs / "detect" / "run.sqlite")) is not None
    assert get_run_reader(str(tmp_path)) is None
    assert get_run_reader([str(runs / "detect")]) is None
    assert run_layers.run_folder(runs / "detect" / "run.sqlite") == runs / "detect"


def test_the_reader_adds_the_objects_once_its_layers_are_there(runs, monkeypatch):
    viewer = ViewerModel()
    monkeypatch.setattr("napari.current_viewer", lambda: viewer)
    reader = get_run_reader(str(runs / "detect"))
    for data, options, kind in reader(str(runs / "detect")):
        assert kind == "image"
        assert run_layers.overlays(viewer) == []
        viewer.add_image(data, **options)
    [overlay] = run_layers.overlays(viewer)
    assert len(overlay) > 20
    again = run_layers.folder_layers(runs / "detect", viewer)
    assert "tissue.svs" not in names(again)
    assert len(again) == len(viewer.layers) - 2, "the slide that is open is not opened again"


def test_results_whose_slide_is_gone_or_another_come_with_a_message(slide, tmp_path, messages):
    copy = tmp_path / "copy.svs"
    shutil.copy(slide, copy)
    run_slide(copy, SCORE, FakeEngine(batch=8), tmp_path / "run", mask="all", overview=False)
    write_slide(copy, Scene(200, 200, seed=9), mpp=MPP, downsamples=(1,), truth=False, overwrite=True)
    layers = run_layers.folder_layers(tmp_path / "run")
    assert names(layers) == ["yes: probability"]
    copy.unlink()
    assert names(run_layers.folder_layers(tmp_path / "run")) == ["yes: probability"]
    assert len(messages) == 2
    assert all("copy.svs was not found" in said for said in messages)
