"""Preferences and shortcuts: one place each, and what stands there is what happens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")

import napari.settings
from napari.components import ViewerModel

from napari_qwenvl.ask.plan import runs_folder
from napari_qwenvl.layers.keys import HEATMAP
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.preferences import Preferences, preferences
from napari_qwenvl.shortcuts import ACTIONS, SHORTCUTS, bind, listing

ROOT = Path(__file__).resolve().parents[2]
GROUPS = yaml.safe_load((ROOT / "napari_qwenvl" / "napari.yaml").read_text())["contributions"]["configurations"]


@pytest.fixture
def settings(monkeypatch):
    """Settings as napari hands them out, by group; tests change them."""
    groups = SimpleNamespace(
        **{
            name: SimpleNamespace(**{key: value["default"] for key, value in group["properties"].items()})
            for name, group in GROUPS.items()
        }
    )
    monkeypatch.setattr(napari.settings, "get_plugin_settings", lambda name: groups)
    return groups


def test_the_manifest_states_the_same_defaults(settings):
    stated = {key: value["default"] for group in GROUPS.values() for key, value in group["properties"].items()}
    assert stated == asdict(Preferences())
    settings.objects.line_width = 5
    settings.keys.shortcuts = False
    assert preferences() == Preferences(line_width=5, shortcuts=False)


def test_runs_go_where_the_preferences_say(settings, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    slides = tmp_path / "a" / "case.svs", tmp_path / "b" / "case.svs"
    assert [runs_folder(slide) for slide in slides] == [tmp_path / "a" / "case.qwenvl", tmp_path / "b" / "case.qwenvl"]
    settings.runs.folder = str(tmp_path / "runs")
    found = [runs_folder(slide) for slide in slides]
    assert found[0] != found[1], "slides of one name in two folders"
    assert {folder.parent for folder in found} == {tmp_path / "runs"}
    assert runs_folder(slides[0]) == found[0]


def test_without_the_plugin_the_defaults_hold(monkeypatch):
    def unknown(name):
        raise KeyError(name)

    monkeypatch.setattr(napari.settings, "get_plugin_settings", unknown)
    assert preferences() == Preferences()


def test_line_width_and_the_limit_of_outlines_reach_the_picture(settings):
    viewer = ViewerModel()
    viewer.canvas.size = (200, 200)
    overlay = Overlay(viewer, um_per_px=None)
    corners = np.arange(0, 120, 1.0)[:, None] * [1, 0] + [0, 50]
    overlay.append(Objects.of(np.c_[corners, corners + 30]))
    viewer.scene.camera.zoom = 1
    viewer.scene.camera.center = (0, 50, 50)
    assert overlay.detail == "outlines"
    thin = (overlay.layer.data[..., 3] == 255).sum()
    settings.objects.line_width = 6
    overlay.set_filter()
    assert (overlay.layer.data[..., 3] == 255).sum() > thin
    settings.objects.keep_outlines_up_to = 100
    overlay.set_filter()
    assert overlay.detail == "density"


def test_every_key_stands_once_and_is_documented():
    keys = [each.key for each in SHORTCUTS]
    assert len(set(keys)) == len(keys)
    assert len({each.action for each in SHORTCUTS}) == len(keys)
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "viewer").glob("*.md"))
    for key in keys:
        assert key.replace("Control", "Ctrl") in pages, key
        assert key in listing()


def test_keys_toggle_objects_and_heatmaps_and_can_be_switched_off(settings):
    viewer = ViewerModel()
    overlay = Overlay(viewer, um_per_px=None)
    heatmap = viewer.add_image(np.zeros((4, 4)), metadata={HEATMAP: np.zeros((4, 4))})
    other = viewer.add_image(np.zeros((4, 4)))
    assert [each.action for each in bind(viewer, ACTIONS)] == list(ACTIONS)
    ACTIONS["toggle_objects"](viewer)
    assert (overlay.layer.visible, heatmap.visible, other.visible) == (False, True, True)
    ACTIONS["toggle_heatmaps"](viewer)
    assert (overlay.layer.visible, heatmap.visible, other.visible) == (False, False, True)
    ACTIONS["toggle_objects"](viewer)
    assert overlay.layer.visible
    ACTIONS["whole_slide"](viewer)
    settings.keys.shortcuts = False
    assert bind(ViewerModel(), ACTIONS) == []
