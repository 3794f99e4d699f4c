"""What a user does, with real Qt events, the embedded model and a slide of the factory: nothing is simulated.

Open a slide, ask for nuclei in the visible field, watch boxes arrive, cancel, go on, filter, click a row and see the
camera move, relabel, undo, save, close, open again: all of it is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_qwenvl.ask.panel import AskPanel
from napari_qwenvl.results.panel import ResultsPanel
from workflows.review.reviewed import State, reviewed_objects
from workflows.store.run_store import RunStore
from wsi.synthetic import Scene, write_slide

LONG_MS = 400_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "tissue.svs"
    # Large enough that a run is still under way when its first boxes have been seen and Cancel is clicked.
    write_slide(path, Scene(600, 500, seed=11), mpp=0.25, downsamples=(1, 4))
    return path


@pytest.fixture
def slide(slide_file, tmp_path) -> Path:
    """A slide of this test alone: runs lie beside it."""
    path = tmp_path / "tissue.svs"
    path.hardlink_to(slide_file)
    return path


@pytest.fixture
def open_viewer(make_napari_viewer, qtbot):
    """Viewers with both panels; each is closed with everything it started."""
    opened = []

    def open_one(slide: Path | None):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1400, 900)
        viewer.window._qt_window.activateWindow()
        if slide is not None:
            viewer.open(slide, plugin="napari-qwenvl")
        ask, results = AskPanel(viewer), ResultsPanel(viewer)
        viewer.window.add_dock_widget(ask, name="Ask Qwen-VL")
        dock = viewer.window.add_dock_widget(results, name="Results", tabify=True)
        dock.raise_()
        opened.append((viewer, ask.running))
        return viewer, ask, results

    yield open_one
    while opened:
        viewer, running = opened.pop()
        running.close()
        viewer.layers.clear()
        del viewer, running


def click(qtbot, button):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def objects_of(session):
    o, labels = session.overlay.objects, session.overlay.labels
    rows = zip(o.key, o.label, o.box, o.state, strict=True)
    return {(int(k), labels[c], tuple(np.round(b, 4)), int(s)) for k, c, b, s in rows}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_session_of_work(open_viewer, qtbot, slide):
    viewer, ask, results = open_viewer(slide)
    session = ask.running.session
    with qtbot.waitSignal(ask.planned, timeout=LONG_MS):
        ask.plan_soon()
    assert "tiles" in ask.estimate.text()
    assert ask.plan.question.options.mask.endswith(".geojson")

    # Ask; boxes arrive while the run goes on.
    ask.labels.clear()
    qtbot.keyClicks(ask.labels, "nucleus")
    click(qtbot, ask.run)
    qtbot.waitUntil(lambda: session.overlay is not None and len(session.overlay) > 0, timeout=LONG_MS)
    assert ask.running.busy
    assert ask.bar.value() > 0
    folder = session.folder

    # Cancel: what is done is kept, and shown.
    with qtbot.waitSignal(ask.running.worker.stopped, timeout=LONG_MS):
        click(qtbot, ask.cancel)
    assert "Finished tiles are kept" in ask.message.text()
    with RunStore.open(folder) as store:
        done, tiles = len(store.finished()), len(store.tiles())
    assert 0 < done < tiles
    kept = len(session.overlay)
    assert kept > 0

    # Go on to the end with the warm model.
    qtbot.waitUntil(lambda: ask.plan is not None, timeout=LONG_MS)
    with qtbot.waitSignal(ask.running.worker.finished, timeout=LONG_MS):
        click(qtbot, ask.run)
    assert session.folder == folder
    with RunStore.open(folder) as store:
        expected = len(reviewed_objects(store))
        assert len(store.finished()) == tiles
        assert store.attempts() == tiles, "a tile was asked twice"
    qtbot.waitUntil(lambda: len(session.overlay) == expected, timeout=LONG_MS)
    qtbot.waitUntil(lambda: results.model.rowCount() == expected, timeout=LONG_MS)
    qtbot.waitUntil(lambda: ask.plan is not None and ask.run.text() == "All answered", timeout=LONG_MS)
    assert not ask.run.isEnabled(), "there is nothing left to ask"

    # Filter by dragging.
    scores = session.overlay.objects.score
    cut = round(float(np.nanmedian(scores)), 2)
    results.score.setValue(round(cut * 100))
    qtbot.waitUntil(lambda: results.model.rowCount() == int((~(scores < cut)).sum()), timeout=LONG_MS)
    results.score.setValue(0)
    qtbot.waitUntil(lambda: results.model.rowCount() == expected, timeout=LONG_MS)

    # Click a row: the camera goes there.
    place = results.model.rowCount() - 1
    results.table.scrollTo(results.model.index(place, 0))
    at = results.table.visualRect(results.model.index(place, 0)).center()
    before = viewer.scene.camera.center
    qtbot.mouseClick(results.table.viewport(), Qt.MouseButton.LeftButton, pos=at)
    row = int(results.model.rows[place])
    box = session.overlay.objects.box[row]
    assert viewer.scene.camera.center != before
    assert viewer.scene.camera.center[-2:] == pytest.approx(
        session.overlay.frame.to_world((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    )

    # Relabel, accept, undo.
    key = int(session.overlay.objects.key[row])
    results.review.onward.setChecked(False)
    results.review.label.setCurrentText("mitosis")
    click(qtbot, results.review.buttons["relabel"])
    assert session.overlay.labels[session.overlay.objects.label[row]] == "mitosis"
    assert session.overlay.objects.state[row] == State.EDITED
    results.review.undo()
    assert session.overlay.labels[session.overlay.objects.label[row]] == "nucleus"
    assert session.overlay.objects.state[row] == State.UNREVIEWED
    results.review.redo()
    results.table.selectRow(0)
    click(qtbot, results.review.buttons["accept"])
    results.table.setFocus()
    qtbot.waitUntil(results.table.hasFocus, timeout=LONG_MS)
    results.table.selectRow(1)
    rejected = int(session.overlay.objects.key[int(results.model.rows[1])])
    qtbot.keyClick(results.table, Qt.Key.Key_X, Qt.KeyboardModifier.ShiftModifier)
    assert session.overlay.objects.state[session.overlay.row_of(rejected)] == State.REJECTED
    session.deciding.add([20.0, 20.0, 60.0, 55.0], "vessel")
    shown = objects_of(session)

    # Close: nothing is saved by hand, everything is there again.
    pid = ask.running.worker._process.processId()
    viewer.close()
    qtbot.waitUntil(lambda: _is_gone(pid), timeout=LONG_MS)
    _, ask2, results2 = open_viewer(None)
    again = ask2.running.session
    ask2.running.open_run(folder)
    qtbot.waitUntil(lambda: again.overlay is not None and len(again.overlay) == len(shown), timeout=LONG_MS)
    assert objects_of(again) == shown
    assert again.overlay.objects.state[again.overlay.row_of(key)] == State.EDITED
    qtbot.waitUntil(lambda: "4 reviewed" in results2.summary.text(), timeout=LONG_MS)
    assert results2.review.buttons["undo"].isEnabled()
    assert any("tissue" in layer.name for layer in ask2.viewer.layers)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_on_the_command_line_is_watched_and_reviewed_meanwhile(open_viewer, qtbot, slide, tmp_path):
    folder = tmp_path / "by-command"
    command = [
        sys.executable,
        "-m",
        "qwenvl",
        "detect",
        str(slide),
        "-l",
        "nucleus",
        "-o",
        str(folder),
        "--mask",
        "all",
        "--tile-size",
        "128",
        "--overlap",
        "0",
    ]
    _, ask, results = open_viewer(slide)
    session = ask.running.session
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    try:
        qtbot.waitUntil(lambda: (folder / "run.sqlite").exists(), timeout=LONG_MS)
        ask.running.open_run(folder)
        qtbot.waitUntil(lambda: session.overlay is not None and len(session.overlay) > 0, timeout=LONG_MS)
        session.deciding.reject([0])
        rejected = session.overlay.objects.box[0].copy()
        assert process.wait(timeout=LONG_MS / 1000) == 0
    finally:
        process.kill()
        process.wait()
    with RunStore.open(folder) as store:
        expected = reviewed_objects(store)
    qtbot.waitUntil(lambda: len(session.overlay) == len(expected), timeout=LONG_MS)
    qtbot.waitUntil(lambda: (session.overlay.objects.state == State.REJECTED).sum() == 1, timeout=LONG_MS)
    row = int(np.flatnonzero(session.overlay.objects.state == State.REJECTED)[0])
    assert np.abs(session.overlay.objects.box[row] - rejected).max() < 40
    qtbot.waitUntil(lambda: "1 reviewed" in results.summary.text(), timeout=LONG_MS)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
