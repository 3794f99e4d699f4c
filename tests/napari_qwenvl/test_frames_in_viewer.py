"""The viewer on a slide that QuPath crops: what it writes and reads lies where QuPath shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bounded_slide import BOUNDS, CANVAS, DOTS, OFFSET, write_scn

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

import napari
from napari.components import ViewerModel
from napari.layers import Shapes
from panel_helpers import Planted, open_whole
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMessageBox

from napari_qwenvl.ask.plan import write_regions
from napari_qwenvl.layers.keys import RUN
from napari_qwenvl.layers.science.spatial import region_layers
from napari_qwenvl.read.slide_layer import layer_data, open_for_viewing
from napari_qwenvl.results import writer
from napari_qwenvl.results.panel import ResultsPanel
from napari_qwenvl.train.sources import layer_source, whole_slide
from qwenvl.request import Request
from workflows import export_geojson, run_slide
from workflows.errors import ExportError
from wsi import PixelFrame, SlideFrames, TissueMask, open_slide

REQUEST = Request(task="detect", labels=("tumor", "lymphocyte"), tile_size=224, overlap=0, mpp=0.5)
X, Y = OFFSET
HEAD = {"frame": "qupath", "bounds": list(BOUNDS)}


@pytest.fixture
def path(tmp_path):
    return write_scn(tmp_path / "a.scn")


@pytest.fixture
def viewer(path, monkeypatch):
    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    levels, options, _ = layer_data(open_for_viewing(path))
    model.add_image(levels, **options)
    return model


def square(viewer, x0, y0, side):
    """A shape over level-0 px x0 .. x0 + side; px centres of the slide's layer are whole numbers."""
    corners = np.array([[y0, x0], [y0, x0 + side], [y0 + side, x0 + side], [y0 + side, x0]], float) - 0.5
    world = np.array([viewer.layers[0].data_to_world(place) for place in corners])
    return viewer.add_shapes([world], shape_type="polygon", name="drawn", units=viewer.layers[0].units)


def test_layers_are_saved_in_the_frame_of_qupath_and_say_so(viewer, tmp_path):
    x, y = DOTS[0]
    layer = square(viewer, X + x, Y + y, 12)
    writer.write_geojson(str(tmp_path / "out.geojson"), [layer.as_layer_data_tuple()])
    document = json.loads((tmp_path / "out.geojson").read_text())
    assert document["qwenvl"] == HEAD
    ring = document["features"][0]["geometry"]["coordinates"][0]
    assert ring == [[x, y], [x + 12, y], [x + 12, y + 12], [x, y + 12], [x, y]]


def test_slides_that_qupath_shows_otherwise_are_not_mixed(viewer, path, tmp_path):
    layer = square(viewer, X, Y, 12)
    other = write_scn(tmp_path / "b.scn", offset=(0, 128))
    levels, options, _ = layer_data(open_for_viewing(other))
    viewer.add_image(levels, **options)
    with pytest.raises(ExportError, match="QuPath shows different parts"):
        writer.write_geojson(str(tmp_path / "out.geojson"), [layer.as_layer_data_tuple()])
    assert not (tmp_path / "out.geojson").exists()


def test_objects_of_a_run_are_saved_in_its_frame_without_the_slide(path, tmp_path, monkeypatch):
    run_slide(path, REQUEST, Planted(), tmp_path / "run", mask="all", overview=False)
    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    layer = model.add_points([[Y + 7, X + 5]], name="p", metadata={RUN: str(tmp_path / "run")})
    writer.write_geojson(str(tmp_path / "out.geojson"), [layer.as_layer_data_tuple()])
    document = json.loads((tmp_path / "out.geojson").read_text())
    assert document["qwenvl"] == HEAD
    assert document["features"][0]["geometry"]["coordinates"] == [5.5, 7.5]


def test_without_any_slide_the_file_has_no_record(tmp_path, monkeypatch):
    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    layer = model.add_points([[7, 5]], name="p")
    writer.write_geojson(str(tmp_path / "out.geojson"), [layer.as_layer_data_tuple()])
    assert "qwenvl" not in json.loads((tmp_path / "out.geojson").read_text())


def test_regions_to_ask_about_are_the_same_as_a_mask(path, tmp_path):
    box = [[X, Y], [X + 100, Y], [X + 100, Y + 50], [X, Y + 50]]
    file = write_regions(tmp_path, [box], CANVAS, BOUNDS)
    with open_slide(path) as slide:
        assert TissueMask.from_geojson(file, slide).area_px0 == 5000
        assert slide.qupath_bounds == BOUNDS
    assert json.loads(file.read_text())["qwenvl"] == {"frame": "level0", "bounds": list(BOUNDS)}


def test_layers_become_labels_at_their_place(path, tmp_path):
    with open_slide(path) as slide:
        shapes = Shapes([[[Y, X], [Y, X + 20], [Y + 10, X + 20], [Y + 10, X]]], name="dot", scale=(0.5, 0.5))
        for source in (layer_source(shapes, slide, path), whole_slide(slide, path)):
            data = source.dataset(False, tmp_path)
            assert data.slides[0].width == CANVAS[0]
            if data.labels:
                assert data.labels[0].box == (X + 0.5, Y + 0.5, X + 20.5, Y + 10.5)
            else:
                assert data.areas[0].ring[2] == CANVAS


def test_regions_of_a_prediction_are_shown_in_level0():
    ring = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "CD74 high"}},
    }
    document = SlideFrames(BOUNDS).document_to_level0({"features": [feature]}, "qupath")
    from napari_qwenvl.read.frame import Frame

    ((boxes, _, _),) = region_layers(document, Frame())
    assert boxes[0].min(axis=0).tolist() == [Y, X]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(PixelFrame.QUPATH, "unchanged"), (PixelFrame.LEVEL0, "moved or resized"), (None, "Nothing was read")],
)
def test_the_panel_asks_where_the_file_does_not_say(path, tmp_path, qtbot, answer, words):
    folder = run_slide(path, REQUEST, Planted(), tmp_path / "run", mask="all", overview=False).folder
    export_geojson(folder, tmp_path / "out.geojson")
    document = json.loads((tmp_path / "out.geojson").read_text())
    del document["qwenvl"]
    bare = tmp_path / "bare.geojson"
    bare.write_text(json.dumps(document))
    panel = ResultsPanel(ViewerModel())
    qtbot.addWidget(panel)
    open_whole(panel.session, folder, qtbot)
    asked = []
    panel.ask_frame = lambda file: asked.append(file) or answer
    panel._tell(lambda: panel._read(bare))
    assert asked == [bare]
    assert words in panel.message.text() or "lie outside" in panel.message.text()
    panel._tell(lambda: panel._read(tmp_path / "out.geojson"))
    assert asked == [bare]
    document["qwenvl"] = {"frame": "qupath", "bounds": [0, 0, 3, 4]}
    bare.write_text(json.dumps(document))
    panel._tell(lambda: panel._read(bare))
    assert "another slide or scan" in panel.message.text()
    panel.running.close()
    panel.close()


@pytest.mark.parametrize(("button", "answer"), [(0, PixelFrame.QUPATH), (1, PixelFrame.LEVEL0), (2, None)])
def test_the_question_has_three_answers(tmp_path, qtbot, button, answer):
    panel = ResultsPanel(ViewerModel())
    qtbot.addWidget(panel)

    def click():
        box = panel.findChild(QMessageBox)
        words = ("what QuPath shows", "whole slide", "Cancel")[button]
        next(each for each in box.buttons() if words in each.text().replace("&", "")).click()

    QTimer.singleShot(0, click)
    assert panel.ask_frame(tmp_path / "a.geojson") is answer
    panel.running.close()
    panel.close()


@pytest.mark.parametrize(("words", "answer"), [("Deleted", True), ("A part", False)])
def test_it_is_asked_whether_missing_objects_were_deleted(tmp_path, qtbot, words, answer):
    panel = ResultsPanel(ViewerModel())
    qtbot.addWidget(panel)

    def click():
        box = panel.findChild(QMessageBox)
        assert "3 objects of this run are not in a.geojson" in box.text()
        next(each for each in box.buttons() if words in each.text().replace("&", "")).click()

    QTimer.singleShot(0, click)
    assert panel.ask_deleted(tmp_path / "a.geojson", 3) is answer
    panel.running.close()
    panel.close()


def test_deletions_are_taken_over(path, tmp_path, qtbot):
    folder = run_slide(path, REQUEST, Planted(), tmp_path / "run", mask="all", overview=False).folder
    export_geojson(folder, tmp_path / "out.geojson")
    document = json.loads((tmp_path / "out.geojson").read_text())
    number = len(document["features"])
    (tmp_path / "part.geojson").write_text(json.dumps(document | {"features": document["features"][1:]}))
    panel = ResultsPanel(ViewerModel())
    qtbot.addWidget(panel)
    open_whole(panel.session, folder, qtbot)
    answers, asked = iter([False, True]), []
    panel.ask_deleted = lambda file, missing: asked.append((file.name, missing)) or next(answers)
    for rejected in ("", "1 rejected"):
        panel._tell(lambda: panel._read(tmp_path / "part.geojson"))
        assert f"{number - 1} unchanged" in panel.message.text()
        assert ("rejected" in panel.message.text()) == bool(rejected)
    assert asked == [("part.geojson", 1)] * 2
    panel.running.close()
    panel.close()
