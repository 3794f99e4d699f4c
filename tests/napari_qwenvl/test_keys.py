"""Every key of the review, pressed where a user's focus may be: on the slide, in the table, on a button."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari", reason="the viewer is tested where napari is installed")
pytest.importorskip("pytestqt", reason="windows are tested where pytest-qt is installed")

from panel_helpers import make_run, make_slide, open_whole
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_qwenvl.layers.keys import HEATMAP
from napari_qwenvl.process.running import running_of
from napari_qwenvl.results.panel import ResultsPanel
from napari_qwenvl.shortcuts import SHORTCUTS
from workflows.review.reviewed import State
from workflows.store.run_store import RunStore

LONG_MS = 120_000
NAMES = {"Shift": Qt.KeyboardModifier.ShiftModifier, "Control": Qt.KeyboardModifier.ControlModifier}


def press(widget, keys):
    """Press a key as it stands in the list of shortcuts."""
    *held, letter = keys.split("-")
    modifiers = Qt.KeyboardModifier.NoModifier
    for name in held:
        modifiers |= NAMES[name]
    QTest.keyClick(widget, getattr(Qt.Key, f"Key_{letter}"), modifiers)


@pytest.fixture
def panel(make_napari_viewer, qtbot, tmp_path):
    slide = make_slide(tmp_path)
    viewer = make_napari_viewer(show=True)
    viewer.open(slide, plugin="napari-qwenvl")
    made = ResultsPanel(viewer)
    viewer.window.add_dock_widget(made, name="Results")
    open_whole(made.session, make_run(slide, tmp_path / "run"), qtbot)
    made.refresh()
    viewer.window._qt_window.activateWindow()
    yield made
    running_of(viewer).close()
    viewer.layers.clear()


def canvas(panel):
    return panel.viewer.window._qt_viewer.canvas.native


PLACES = {
    "slide": canvas,
    "table": lambda panel: panel.table,
    "button": lambda panel: panel.review.buttons["next"],
    "filter": lambda panel: panel.score,
    "words": lambda panel: panel.words.table,
}


def test_every_key_works_wherever_the_focus_is(panel, qtbot):
    overlay, viewer, review = panel.session.overlay, panel.viewer, panel.review
    heatmap = viewer.add_image(np.zeros((4, 4)), metadata={HEATMAP: np.zeros((4, 4))}, units="um")
    tried = set()
    for name, place in PLACES.items():
        widget = place(panel)
        panel.tabs.setCurrentIndex(1 if name == "words" else 0)
        widget.setFocus()
        qtbot.waitUntil(widget.hasFocus, timeout=LONG_MS)

        def key(action, widget=widget):
            [keys] = [each.key for each in SHORTCUTS if each.action == action]
            press(widget, keys)
            tried.add(action)

        review.onward.setChecked(False)
        review.label.setCurrentText("vessel")
        panel._go_to(1)
        widget.setFocus()
        before = overlay.labels[overlay.objects.label[1]]
        for action, state, label in (
            ("accept", State.ACCEPTED, before),
            ("reject", State.REJECTED, before),
            ("relabel", State.EDITED, "vessel"),
            ("undo", State.REJECTED, before),
            ("redo", State.EDITED, "vessel"),
            ("clear", State.UNREVIEWED, before),
        ):
            key(action)
            assert overlay.objects.state[1] == state, f"{action} on the {name}"
            assert overlay.labels[overlay.objects.label[1]] == label, f"{action} on the {name}"
        key("next")
        assert overlay.selected == 2, f"next on the {name}"
        key("back")
        assert overlay.selected == 1, f"back on the {name}"
        key("uncertain")
        assert overlay.selected != 1, f"uncertain on the {name}"
        key("edit")
        assert review.buttons["edit"].isChecked(), f"edit on the {name}"
        widget.setFocus()
        key("edit")
        assert not review.buttons["edit"].isChecked(), f"the end of editing on the {name}"
        key("draw")
        assert "draw objects" in viewer.layers, f"draw on the {name}"
        widget.setFocus()
        key("draw")
        assert "draw objects" not in viewer.layers, f"the end of drawing on the {name}"
        for layer, action in ((overlay.layer, "toggle_objects"), (heatmap, "toggle_heatmaps")):
            shown = layer.visible
            key(action)
            assert layer.visible is not shown, f"{action} on the {name}"
            key(action)
        viewer.scene.camera.zoom = 99
        key("whole_slide")
        assert viewer.scene.camera.zoom < 99, f"whole_slide on the {name}"
    assert tried == {each.action for each in SHORTCUTS}


def test_keys_leave_letters_to_who_writes(panel, qtbot):
    field = panel.review.label
    field.setFocus()
    qtbot.waitUntil(field.hasFocus, timeout=LONG_MS)
    field.lineEdit().clear()
    panel._go_to(0)
    field.setFocus()
    press(field, "Shift-X")
    assert field.currentText().lower() == "x"
    assert panel.session.overlay.objects.state[0] == State.UNREVIEWED


def test_a_key_decides_goes_on_and_is_in_the_journal(panel, qtbot):
    overlay, table = panel.session.overlay, panel.table
    table.setFocus()
    qtbot.waitUntil(table.hasFocus, timeout=LONG_MS)
    panel.review.label.setCurrentText("plasma cell")
    table.selectRow(0)
    for number, keys in enumerate(("Shift-A", "Shift-X", "Shift-L")):
        assert overlay.selected == number
        press(table, keys)
    assert overlay.objects.state[:3].tolist() == [State.ACCEPTED, State.REJECTED, State.EDITED]
    press(table, "Control-Z")
    assert overlay.objects.state[:3].tolist() == [1, 2, 0]
    assert overlay.selected == 2
    press(table, "Control-Shift-Z")
    with RunStore.open(panel.session.folder) as store:
        assert [row.action for row in store.reviews()] == ["accept", "reject", "relabel", "undo", "redo"]
