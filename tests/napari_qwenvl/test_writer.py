"""What is saved as GeoJSON lies in px of level 0, whatever the layer's scale."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

import napari
from napari.components import ViewerModel

from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import layer_data, open_for_viewing
from napari_qwenvl.results import writer
from workflows.errors import ExportError
from workflows.review.reviewed import State
from wsi.synthetic import Scene, write_slide

MPP = 0.5


@pytest.fixture
def viewer(tmp_path, monkeypatch):
    """A viewer with a slide of 0.5 um/px, as napari's writers find it."""
    path = tmp_path / "slide.svs"
    write_slide(path, Scene(64, 64, seed=3), mpp=MPP, downsamples=(1,), truth=False)
    model = ViewerModel()
    monkeypatch.setattr(napari, "current_viewer", lambda: model)
    levels, options, _ = layer_data(open_for_viewing(path))
    model.add_image(levels, **options)
    return model


def saved(path, *layers):
    assert writer.write_geojson(str(path), [layer.as_layer_data_tuple() for layer in layers]) == [str(path)]
    return json.loads(path.read_text())["features"]


def test_objects_are_saved_with_score_and_review(viewer, tmp_path):
    overlay = Overlay(viewer, um_per_px=MPP)
    overlay.labels = ["tumor", "stroma"]
    overlay.replace(
        Objects.of(
            [[10, 20, 30, 44.5], [5, 6, 5, 6]],
            [1, 0],
            key=[7, 9],
            point=[False, True],
            score=[0.25, np.nan],
            state=[State.ACCEPTED, State.REJECTED],
        )
    )
    box, point = saved(tmp_path / "out.geojson", overlay.layer)
    assert box["geometry"]["coordinates"] == [[[10, 20], [30, 20], [30, 44.5], [10, 44.5], [10, 20]]]
    assert box["properties"]["classification"] == {"name": "stroma", "color": list(overlay.colours["stroma"])}
    assert box["properties"]["measurements"] == {"score": 0.25}
    assert box["properties"]["metadata"] == {"key": "7", "review": "accepted"}
    assert point["geometry"] == {"type": "Point", "coordinates": [5, 6]}
    assert "measurements" not in point["properties"]
    assert point["properties"]["metadata"]["review"] == "rejected"


@pytest.mark.parametrize(
    "placed",
    [
        {"scale": (MPP, MPP), "units": "um"},
        {"scale": (MPP / 2, MPP), "units": "um", "translate": (3, -2)},
        {"units": "um", "affine": [[0, MPP, 1], [MPP, 0, 2], [0, 0, 1]]},
    ],
)
def test_shapes_and_points_are_saved_where_they_lie_on_the_slide(viewer, tmp_path, placed):
    slide = viewer.layers[0]
    corners = np.array([[20, 10], [20, 50], [40, 50], [40, 10]], float)  # (y, x) of px centres on the slide
    world = np.array([slide.data_to_world(place) for place in corners])
    shapes = viewer.add_shapes(None, ndim=2, name="regions", **placed)
    own = np.array([shapes.world_to_data(place) for place in world])
    shapes.add([own, own], shape_type=["polygon", "path"], edge_color=[[1, 0, 0, 1], [0, 0, 1, 1]])
    points = viewer.add_points(
        [shapes.world_to_data(world[0])], name="cells", features={"label": ["mitosis"]}, **placed
    )
    polygon, path, point = saved(tmp_path / "out.geojson", shapes, points)
    ring = [[10.5, 20.5], [50.5, 20.5], [50.5, 40.5], [10.5, 40.5]]
    assert polygon["geometry"] == {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    assert polygon["properties"]["objectType"] == "annotation"
    assert polygon["properties"]["classification"] == {"name": "regions", "color": [255, 0, 0]}
    assert path["geometry"] == {"type": "LineString", "coordinates": ring}
    assert point["geometry"] == {"type": "Point", "coordinates": ring[0]}
    assert point["properties"]["classification"]["name"] == "mitosis"


def test_an_ellipse_keeps_its_area(viewer, tmp_path):
    box = [[0, 0], [0, 40], [20, 40], [20, 0]]
    shapes = viewer.add_shapes([box], shape_type="ellipse", scale=(MPP, MPP), units="um")
    [feature] = saved(tmp_path / "out.geojson", shapes)
    x, y = np.array(feature["geometry"]["coordinates"][0]).T
    area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
    assert area == pytest.approx(np.pi * 20 * 10, rel=0.01)
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((0.5, 40.5, 0.5, 20.5), abs=0.01)


def test_micrometres_without_their_slide_are_refused_and_nothing_is_written(viewer, tmp_path):
    shapes = viewer.add_shapes([[[0, 0], [9, 9]]], shape_type="rectangle", units="um")
    viewer.layers.pop(0)
    target = tmp_path / "out.geojson"
    with pytest.raises(ExportError, match="not open"):
        saved(target, shapes)
    with pytest.raises(ExportError, match="GeoJSON"):
        saved(target, viewer.add_image(np.zeros((4, 4))))
    assert list(tmp_path.glob("out*")) == []


def test_layers_in_px_need_no_slide(viewer, tmp_path):
    viewer.layers.clear()
    shapes = viewer.add_shapes([[[0, 0], [0, 9], [9, 9], [9, 0]]], shape_type="rectangle")
    [feature] = saved(tmp_path / "out.geojson", shapes)
    assert feature["geometry"]["coordinates"][0][2] == [9.5, 9.5]


def test_the_frame_goes_there_and_back():
    frame = Frame.of((0.25, 0.5))
    y, x = frame.to_world(12.0, 30.0)
    assert (x, y) == (11.5 * 0.25, 29.5 * 0.5)
    assert frame.to_level0(y, x) == (12.0, 30.0)
    assert frame.scale == (0.5, 0.25)
