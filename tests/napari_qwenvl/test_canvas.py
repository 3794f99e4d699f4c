"""The canvas with a real window: opening through napari, clicking, drawing off the GUI's thread."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")
pytest.importorskip("pytestqt", reason="windows are tested where pytest-qt is installed")

from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from napari_qwenvl.layers import overlay
from napari_qwenvl.layers import raster as _raster
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.layers.run_layers import overlays
from napari_qwenvl.read import sample, scale
from napari_qwenvl.read.slide_layer import slide_layers, slide_of
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows.run.slide import run_slide


@pytest.fixture
def viewer(make_napari_viewer, monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "settings_folder", lambda: tmp_path / "settings")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sample, "_SIDE_PX", 512)
    return make_napari_viewer(show=True)


def test_the_sample_opens_and_a_run_over_it_opens_beside_it(viewer, tmp_path, qtbot):
    viewer.open_sample("napari-qwenvl", "synthetic")
    [layer] = slide_layers(viewer)
    assert str(layer.units[0]) == "micrometer"
    request = Request(task="detect", labels=("nucleus",), tile_size=224, overlap=32, mpp=0.5)
    run_slide(slide_of(layer).path, request, FakeEngine(20), tmp_path / "run", mask="all", overview=False)
    viewer.open(tmp_path / "run", plugin="napari-qwenvl")
    [found] = overlays(viewer)
    qtbot.waitUntil(lambda: len(found) > 15)
    found.flush()
    assert len(slide_layers(viewer)) == 1, "the slide was open already"
    assert len(found.in_field()) == len(found)
    assert viewer.screenshot(canvas_only=True, flash=False)[..., :3].std() > 5


def test_pictures_are_drawn_on_another_thread_and_a_click_picks(viewer, qtbot, monkeypatch):
    threads = []

    def draw(job):
        threads.append(threading.current_thread())
        return _raster.draw(job)

    monkeypatch.setattr(overlay, "draw", draw)
    viewer.add_image(np.full((400, 600, 3), 200, np.uint8), scale=(0.25, 0.25), units="um")
    objects = Overlay(viewer, um_per_px=0.25)
    objects.labels = ["cell"]
    objects.append(Objects.of([[280, 180, 320, 220]]))
    viewer.reset_view()
    objects.flush()
    assert threads
    assert threading.main_thread() not in threads
    picked = []
    objects.picked.connect(picked.append)
    native = viewer.window._qt_viewer.canvas.native
    middle = QPoint(native.width() // 2, native.height() // 2)
    with qtbot.waitSignal(native.destroyed, timeout=50, raising=False):
        QTest.mouseMove(native, middle)
    QTest.mouseClick(native, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, middle)
    qtbot.waitUntil(lambda: picked == [0])
    assert objects.selected == 0
    objects.close()


def test_camera_moves_are_drawn_once_the_camera_rests(viewer, qtbot, monkeypatch):
    drawn = []
    viewer.add_image(np.full((400, 600, 3), 200, np.uint8))
    objects = Overlay(viewer, um_per_px=None)
    objects.append(Objects.of([[280, 180, 320, 220]]))
    objects.flush()
    objects.drawn.connect(lambda: drawn.append(1))
    for step in range(10):
        viewer.scene.camera.center = (0, 200 + step, 300)
    assert drawn == []
    objects.flush()
    assert len(drawn) == 1
    objects.close()
    viewer.scene.camera.center = (0, 0, 0)


def test_an_unknown_scale_is_asked_in_the_window_once(viewer, tmp_path, monkeypatch):
    import tifffile
    from qtpy.QtWidgets import QInputDialog

    path = tmp_path / "gray.tif"
    tifffile.imwrite(path, np.zeros((4200, 300), np.uint8), tile=(256, 256))
    asked = []
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *a, **k: asked.append(a[2]) or (0.0, False))
    viewer.open(path, plugin="napari-qwenvl")
    assert str(viewer.layers[0].units[0]) == "pixel"
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *a, **k: asked.append(a[2]) or (0.4, True))
    for _ in range(2):
        viewer.layers.clear()
        viewer.open(path, plugin="napari-qwenvl")
        assert viewer.layers[0].scale.tolist() == [0.4, 0.4]
    assert len(asked) == 2
    assert "gray.tif" in asked[0]
