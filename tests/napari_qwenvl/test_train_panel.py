"""From review to adapter with real Qt events, the embedded model and a few steps: the way is shown, not the gain."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from panel_helpers import make_run, make_slide, open_whole
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel
from test_train_sources import decide

from napari_qwenvl.ask.adapter_row import FORGETS, UNMEASURED, adapting_of, verdict
from napari_qwenvl.ask.panel import AskPanel
from napari_qwenvl.ask.plan import model_fields
from napari_qwenvl.process.running import running_of
from napari_qwenvl.train.curves import CurveView, read_points, smoothed
from napari_qwenvl.train.panel import TrainPanel
from napari_qwenvl.train.process import training_of
from napari_qwenvl.train.result import BeforeAfter, ResultPage, metric_rows
from napari_qwenvl.train.sources import RunSource
from qwenvl.checkpoints.adapters.card import CARD, read_card
from workflows.review.decisions import Verdict

LONG_MS = 300_000


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1400, 900)
    yield viewer
    training_of(viewer).close()
    running_of(viewer).close()
    viewer.layers.clear()


@pytest.fixture
def reviewed(tmp_path):
    """Two slides whose runs are reviewed."""
    runs = []
    for seed in (4, 5):
        slide = make_slide(tmp_path, f"s{seed}.svs", seed=seed)
        runs.append(make_run(slide, tmp_path / f"s{seed}.run"))
        decide(runs[-1], all_of=Verdict.ACCEPTED)
    return runs


def click(qtbot, button):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def ready(panel, qtbot, runs, steps=4):
    """The panel with the reviews of two runs, and a recipe of a few steps."""
    for run in runs:
        with qtbot.waitSignal(panel.labels.changed, timeout=LONG_MS):
            panel.labels.add_source(RunSource(run))
    qtbot.waitUntil(lambda: panel.run.preset.count() > 0, timeout=LONG_MS)
    panel.run.steps.setValue(steps)
    panel.run.measured.setValue(2)
    qtbot.waitUntil(panel.run.start.isEnabled, timeout=LONG_MS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_review_to_adapter(viewer, reviewed, qtbot, tmp_path):
    panel, ask = TrainPanel(viewer), AskPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Train")
    viewer.window.add_dock_widget(ask, name="Ask Qwen-VL", tabify=True)
    labels, run, result = panel.labels, panel.run, panel.result
    ready(panel, qtbot, reviewed)
    assert labels.slides.rowCount() == 2
    assert [labels.classes.item(row, 0).text() for row in range(2)] == ["lymphocyte", "tumor"]
    assert "some fifty" in labels.warnings.text() or labels.warnings.text() == ""
    assert run.name.placeholderText() == "adapter-1"

    # Train, and stop after the first steps: the state is saved, and curves are there.
    panel.tabs.setCurrentWidget(run)
    click(qtbot, run.start)
    qtbot.waitUntil(lambda: panel.training.step is not None, timeout=LONG_MS)
    pid = panel.training.pid
    assert run.bar.maximum() == 4
    with qtbot.waitSignal(panel.training.stopped, timeout=LONG_MS):
        click(qtbot, run.cancel)
    qtbot.waitUntil(lambda: not panel.training.busy, timeout=LONG_MS)
    assert _is_gone(pid), "its memory is not free"
    folder = run.folder
    assert list((folder / "run" / "states").iterdir())
    assert run.curves.loss
    assert "Go on" in panel.message.text()
    assert run.start.text() == "Go on"
    before = read_points(folder / "run" / "training.csv")["loss"]

    # Go on to the end.
    with qtbot.waitSignal(panel.training.pictured, timeout=LONG_MS):
        click(qtbot, run.start)
    qtbot.waitUntil(lambda: not panel.training.busy, timeout=LONG_MS)
    after = read_points(folder / "run" / "training.csv")["loss"]
    assert after[: len(before)] == before
    assert [step for step, _ in after] == [1, 2, 3, 4]
    assert panel.tabs.currentWidget() is result
    card = read_card(folder / "run" / "adapter")
    assert card.labels == ("lymphocyte", "tumor")
    shown = {
        result.table.item(row, 0).text(): result.table.item(row, 2).text() for row in range(result.table.rowCount())
    }
    assert shown["F1 (IoU 0.5)"] == f"{card.facts['metrics']['adapter']['f1']:.3f}"
    assert card.forgetting["skills"]
    assert verdict(card)[1] in result.gate.text()

    # Held-out tiles before and after.
    click(qtbot, result.compare)
    pictures = result.pictures
    assert len(pictures.tiles) == 2
    held = next(row for row in labels.gathered.rows if row.part == "validation")
    assert {tile["slide"] for tile in pictures.tiles} == {held.id}
    first = pictures.caption.text()
    click(qtbot, pictures.next)
    assert pictures.caption.text() != first
    grabbed = pictures.views[0].grab().toImage()
    assert len({grabbed.pixel(x, y) for x in range(0, grabbed.width(), 7) for y in range(0, grabbed.height(), 7)}) > 20

    # One click, and the Ask panel asks with it.
    click(qtbot, result.use)
    assert adapting_of(viewer).folder == folder / "run" / "adapter"
    assert ask.labels.text() == "lymphocyte, tumor"
    assert "adapter-1" in ask.adapter.name.text()
    assert verdict(card)[1].split(":")[0] in ask.adapter.state.text()
    viewer.open(reviewed[0].parent / "s4.svs", plugin="napari-qwenvl")
    ask.make_plan()
    assert ask.plan is not None, ask.estimate.text()
    assert ask.plan.question.options.adapter == folder / "run" / "adapter"
    assert "--adapter" in ask.plan.command()
    assert "adapter=" in ask.plan.python()
    with_it = ask.plan.out
    adapting_of(viewer).use(None)
    ask.make_plan()
    assert ask.plan.out != with_it

    # The model's process puts it on and takes it off again; the base is then the very same.
    seen: list[tuple[str | None, str]] = []
    worker = ask.running.worker
    worker.ready.connect(lambda event: seen.append((event["asked"]["adapter"], event["info"]["fingerprint"])))
    fields = model_fields(ask.plan.question.options)
    adapter = str(folder / "run" / "adapter")
    for wanted in (None, adapter, None):
        number = len(seen)
        worker.load(fields | {"adapter": wanted})
        qtbot.waitUntil(lambda n=number, w=wanted: w in [which for which, _ in seen[n:]], timeout=LONG_MS)
    prints = {which: {found for each, found in seen if each == which} for which in (None, adapter)}
    assert len(prints[None]) == len(prints[adapter]) == 1
    assert prints[None] != prints[adapter]
    (tmp_path / "no").mkdir()
    with qtbot.waitSignal(worker.failed, timeout=LONG_MS) as told:
        worker.load(fields | {"adapter": str(tmp_path / "no")})
    assert "no adapter in safetensors" in told.args[0]["message"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_closing_napari_stops_it_and_it_goes_on_next_time(make_napari_viewer, reviewed, qtbot):
    viewer = make_napari_viewer(show=True)
    panel = TrainPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Train")
    ready(panel, qtbot, reviewed, steps=200)
    panel.run.on_start()
    qtbot.waitUntil(lambda: panel.training.step is not None, timeout=LONG_MS)
    pid, folder = panel.training.pid, panel.run.folder
    viewer.close()
    qtbot.waitUntil(lambda: _is_gone(pid), timeout=LONG_MS)
    states = list((folder / "run" / "states").glob("checkpoint-*"))
    assert any((state / "trainer_state.json").is_file() for state in states)
    other = TrainPanel(make_napari_viewer())
    qtbot.addWidget(other)
    other.run.open_training(folder)
    assert "Press Go on" in other.message.text()
    assert other.run.resumable()
    assert other.run.curves.loss
    training_of(other.viewer).close()
    running_of(other.viewer).close()


def test_what_is_missing_is_said_and_the_viewer_stays(viewer, tmp_path, qtbot, monkeypatch):
    import importlib.util

    panel = TrainPanel(viewer)
    qtbot.addWidget(panel)
    assert "Two slides" in panel.labels.warnings.text() or "Add labels" in panel.labels.warnings.text()
    assert not panel.run.start.isEnabled()
    run = make_run(make_slide(tmp_path), tmp_path / "new.run")
    with qtbot.waitSignal(panel.labels.changed, timeout=LONG_MS):
        panel.labels.add_source(RunSource(run))
    assert "new.run has no reviews" in panel.labels.problems.text()
    assert not panel.run.start.isEnabled()
    panel.labels.add_open_run()
    assert "No run is open" in panel.message.text()
    panel.labels.add_whole()
    assert "Open a slide first" in panel.message.text()
    panel.run.open_training(tmp_path)
    assert "is no training" in panel.message.text()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else found(name))
    panel.run.on_start()
    assert "pip install" in panel.message.text()


def test_a_training_that_fails_says_why(viewer, tmp_path, qtbot):
    training = training_of(viewer)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: nowhere\nout: run\nlearning: 3\n")
    with qtbot.waitSignal(training.failed, timeout=LONG_MS) as told:
        training.start(recipe)
    assert "learning" in told.args[0]
    assert "unexpectedly" not in told.args[0]
    qtbot.waitUntil(lambda: not training.busy, timeout=LONG_MS)


def test_the_menu_offers_what_there_is(viewer, reviewed, qtbot):
    panel = TrainPanel(viewer)
    qtbot.addWidget(panel)
    viewer.open(reviewed[0].parent / "s4.svs", plugin="napari-qwenvl")
    layer = viewer.add_shapes(
        [[[5, 5], [5, 30], [30, 30], [30, 5]]], features={"label": ["vessel"]}, name="drawn", scale=(0.25, 0.25)
    )
    panel.labels.fill_menu()
    texts = [action.text() for action in panel.labels.menu.actions()]
    assert "Layer 'drawn': objects" in texts
    assert "Layer 'drawn': areas where all is labelled" in texts
    with qtbot.waitSignal(panel.labels.changed, timeout=LONG_MS):
        panel.labels.add_layer(layer)
    assert panel.labels.gathered.counts == {"vessel": (1, 0)}
    panel.labels.slides.selectRow(0)
    with qtbot.waitSignal(panel.labels.changed, timeout=LONG_MS):
        panel.labels.on_remove()
    assert panel.labels.sources == []


def test_a_click_on_an_uncertain_tile_moves_the_camera(viewer, reviewed, qtbot):
    folder = make_run(reviewed[0].parent / "s4.svs", reviewed[0].parent / "open.run")
    panel = TrainPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Train")
    panel.tabs.setCurrentWidget(panel.queue)
    session = panel.labels.session
    with qtbot.waitSignal(panel.queue.listed, timeout=LONG_MS):
        pass
    open_whole(session, folder, qtbot)
    qtbot.waitUntil(lambda: panel.queue.table.rowCount() > 2, timeout=LONG_MS)
    table = panel.queue.table
    for row in (2, 0):
        at = table.visualItemRect(table.item(row, 1)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=at)
        x0, y0, x1, y1 = panel.queue.doubts[row].rect
        expected = session.overlay.frame.to_world((x0 + x1) / 2, (y0 + y1) / 2)
        assert viewer.scene.camera.center[-2:] == pytest.approx(expected)


# ---------------------------------------------------------------------- what is shown


def card_of(folder, **facts):
    content = {
        "name": "mine",
        "base": {"name": "embedded", "family": "Qwen3-VL", "fingerprint": "f"},
        "processor": {},
        "labels": ["a", "b"],
        "request": {"task": "detect"},
        **facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(content))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return read_card(folder)


def test_an_adapter_that_forgets_is_marked_everywhere(viewer, tmp_path, qtbot):
    skills = {"nuclei": {"before": 80.0, "after": 71.5}}
    lost = {"limit": 2.0, "lost": 8.5, "passed": False, "skills": skills}
    card = card_of(tmp_path / "run" / "adapter", forgetting=lost)
    assert verdict(card)[0] == FORGETS
    result, ask = ResultPage(viewer), AskPanel(viewer)
    qtbot.addWidget(result)
    qtbot.addWidget(ask)
    result.show_training(tmp_path)
    assert "FORGETS: lost 8.5 points" in result.gate.text()
    assert "nuclei: 80.0 before, 71.5 after (-8.5)" in result.gate.text()
    told = []
    result.told.connect(lambda kind, words: told.append((kind, words)))
    result.on_use()
    assert told[0][0] == "note"
    assert "FORGETS" in ask.adapter.state.text()
    assert isinstance(ask.adapter.state, QLabel)
    unmeasured = card_of(tmp_path / "other")
    assert verdict(unmeasured)[0] == UNMEASURED
    ask.advanced.server.setText("http://localhost:1")
    with pytest.raises(ValueError, match="loads its own adapters"):
        ask._options("auto")


def test_a_folder_without_an_adapter_is_refused(viewer, tmp_path):
    from qwenvl.errors import CheckpointError

    with pytest.raises(CheckpointError, match="holds no adapter"):
        adapting_of(viewer).use(tmp_path)
    assert adapting_of(viewer).folder is None


def test_rows_of_metrics():
    base = {"f1": 0.1, "count_error": 3.0, "classes": {"a": {"f1": 0.2}}}
    adapter = {
        "f1": 0.6,
        "count_error": 1.0,
        "f1_interval": [0.5, 0.7],
        "classes": {"a": {"f1": 0.5}, "b": {"f1": 0.7}},
    }
    rows = {row[0]: row[1:4] for row in metric_rows(base, adapter, ("a", "b"))}
    assert rows["F1 (IoU 0.5)"] == (0.1, 0.6, False)
    assert rows["count error per tile"] == (3.0, 1.0, True)
    assert rows["F1 of b"] == (None, 0.7, False)
    assert metric_rows({}, {}, ("a",)) == []


def test_curves_are_read_while_they_are_written(tmp_path, qtbot):
    (tmp_path / "training.csv").write_text("step,name,value\n1,loss,4\n2,loss,2\n3,lo")
    assert read_points(tmp_path / "training.csv")["loss"] == [(1, 4.0), (2, 2.0)]
    assert read_points(tmp_path / "none.csv") == {}
    assert smoothed([(1, 4.0), (2, 2.0)], 0.5) == [(1, 4.0), (2, pytest.approx(8 / 3))]
    view = CurveView()
    qtbot.addWidget(view)
    view.resize(360, 150)
    view.follow(tmp_path, 10)
    assert len(view.loss) == 2
    empty = view.grab().toImage()
    (tmp_path / "validation.csv").write_text("step,name,value\n2,f1,0.4\n4,f1,0.6\n")
    view.refresh()
    assert view.scores == [(2, 0.4), (4, 0.6)]
    assert view.grab().toImage() != empty
    view.rest()


def test_pictures_show_boxes_where_they_are(tmp_path, qtbot):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(tmp_path / "tile.png")
    box = {"label": "a", "box": [16, 16, 48, 48], "point": None, "score": None}
    counts = {"found": 1, "missed": 0, "invented": 0}
    row = {
        "slide": "s",
        "rect": [0, 0, 64, 64],
        "size": [64, 64],
        "picture": "tile.png",
        "truth": [box],
        "before": [],
        "after": [box],
        "status": {"before": "empty", "after": "ok"},
        "counts": {"before": counts, "after": counts},
    }
    (tmp_path / "tiles.json").write_text(json.dumps([row]))
    pictures = BeforeAfter()
    qtbot.addWidget(pictures)
    pictures.resize(900, 340)
    pictures.show()
    pictures.show_tiles(tmp_path / "tiles.json", ("a",))
    images = [view.grab().toImage() for view in pictures.views]
    yellow = [_share_of_yellow(image) for image in images]
    assert yellow[0] > 0
    assert yellow[1] == 0
    assert yellow[2] == pytest.approx(yellow[0])


def _share_of_yellow(image):
    pixels = [image.pixelColor(x, y) for x in range(image.width()) for y in range(30, image.height())]
    return sum(p.red() > 240 and p.green() > 190 and p.blue() < 90 for p in pixels) / len(pixels)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
