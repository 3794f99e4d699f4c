"""The overlay on a viewer without Qt: places, filters, picking, levels of detail, editing."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

from napari.components import ViewerModel

from napari_qwenvl.objects import Objects
from napari_qwenvl.overlay import Overlay

MPP = 0.25


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.canvas.size = (400, 600)
    return model


@pytest.fixture
def overlay(viewer):
    made = Overlay(viewer, um_per_px=MPP)
    made.labels = ["tumor", "stroma"]
    boxes = [[100, 100, 140, 160], [110, 110, 120, 120], [1000, 800, 1040, 830], [300, 300, 300, 300]]
    made.replace(
        Objects.of(boxes, [0, 1, 0, 1], point=[False, False, False, True], score=[0.9, 0.2, np.nan, 0.6])
    )
    look(viewer, 130, 130, zoom=8)
    return made


def look(viewer, x0, y0, zoom):
    """Bring level-0 px (x0, y0) to the middle of the canvas."""
    viewer.scene.camera.zoom = zoom
    viewer.scene.camera.center = (0, (y0 - 0.5) * MPP, (x0 - 0.5) * MPP)


def drawn_at(overlay, x0, y0):
    """RGBA of the picture at a place in level-0 px, through the layer's own transform."""
    y, x = overlay.layer.world_to_data(((y0 - 0.5) * MPP, (x0 - 0.5) * MPP))
    return overlay.layer.data[round(y), round(x)]


def test_outlines_lie_where_the_boxes_are(overlay):
    assert overlay.detail == "outlines"
    for x0, y0 in ((100, 130), (140, 130), (120.5, 100), (120.5, 160)):
        assert tuple(drawn_at(overlay, x0, y0)) == (*overlay.colours["tumor"], 255)
    assert drawn_at(overlay, 130, 140)[3] == 0
    assert overlay.layer.units[0] == "micrometer"
