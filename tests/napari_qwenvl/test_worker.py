"""The model's process: answers arrive, cancel and closing are prompt, faults come back as words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from panel_helpers import make_slide
from qtpy.QtCore import QTimer

from napari_qwenvl.ask.plan import AskPlan, PanelQuestion, recommended_of
from napari_qwenvl.process.worker import Worker
from workflows.run.options import RunOptions
from workflows.store.run_store import RunStore
from wsi.synthetic import Scene, write_slide

LONG_MS = 280_000


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "tissue.svs"
    write_slide(path, Scene(240, 200, seed=11), mpp=0.25, downsamples=(1, 4))
    return path


@pytest.fixture(scope="module")
def worker(qapp):
    """One process for the tests that leave it alive: the model is loaded once."""
    made = Worker()
    yield made
    made.close()


@pytest.fixture
def own(qapp):
    """A process of one test."""
    made = Worker()
    yield made
    made.close()


def plan_of(slide: Path, runs: Path, **options) -> AskPlan:
    question = PanelQuestion("detect", ("nucleus",), options=RunOptions(mask="all", **options))
    return AskPlan.of(slide, question, recommended_of("embedded"), runs=runs)


def test_a_run_streams_into_its_store_and_the_viewer_stays_free(qtbot, worker, slide, tmp_path):
    plan, progress, ticks = plan_of(slide, tmp_path), [], []
    worker.progress.connect(progress.append)
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(1))
    timer.start(20)
    with qtbot.waitSignal(worker.finished, timeout=LONG_MS) as ended:
        number = worker.run(plan.for_worker(6))
    timer.stop()
    assert ended.args[0]["id"] == number
    assert ended.args[0]["complete"]
    assert not worker.busy
    assert worker.model["info"]["model"] == "embedded"
    assert [state["done"] for state in progress] == sorted(state["done"] for state in progress)
    assert progress[-1]["done"] == progress[-1]["total"] > 4
    assert len(progress) > 1, "boxes came all at once"
    assert len(ticks) > 20
    with RunStore.open(plan.out) as store:
        assert store.last_seq() == progress[-1]["seq"]
        assert store.manifest.command == plan.command()


def test_cancel_keeps_what_is_done_and_run_goes_on_with_the_warm_model(qtbot, worker, slide, tmp_path):
    plan, loaded = plan_of(slide, tmp_path), []
    worker.loading.connect(loaded.append)
    with qtbot.waitSignal(worker.progress, timeout=LONG_MS):
        worker.run(plan.for_worker(6))
    with qtbot.waitSignal(worker.stopped, timeout=LONG_MS):
        worker.cancel()
    assert not worker.busy
    with RunStore.open(plan.out) as store:
        kept = len(store.finished())
        assert 0 < kept < len(store.tiles())
    with qtbot.waitSignal(worker.finished, timeout=LONG_MS) as ended:
        worker.run(plan.for_worker(6))
    assert ended.args[0]["complete"]
    assert len(loaded) <= 1, "the model was loaded once more"


@pytest.mark.slow
def test_cancel_while_the_model_loads(qtbot, own, slide, tmp_path):
    with qtbot.waitSignal(own.loading, timeout=LONG_MS):
        own.run(plan_of(slide, tmp_path).for_worker(6))
    with qtbot.waitSignal(own.stopped, timeout=LONG_MS):
        own.cancel()
    assert own.model is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_unloading_ends_the_process(qtbot, own):
    with qtbot.waitSignal(own.ready, timeout=LONG_MS):
        own.load({"model": "embedded"})
    pid = own._process.processId()
    with qtbot.waitSignal(own.unloaded, timeout=LONG_MS):
        own.unload()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert own.model is None


@pytest.mark.slow
def test_closing_during_a_run_stops_it_and_it_can_be_resumed(qtbot, slide, tmp_path):
    worker, plan = Worker(), plan_of(slide, tmp_path)
    with qtbot.waitSignal(worker.progress, timeout=LONG_MS):
        worker.run(plan.for_worker(6))
    worker.close()
    with RunStore.open(plan.out, readonly=False) as store:
        assert 0 < len(store.finished()) < len(store.tiles())


@pytest.mark.slow
def test_a_process_that_dies_is_reported_and_the_next_run_starts_another(qtbot, own, slide, tmp_path):
    plan = plan_of(slide, tmp_path)
    with qtbot.waitSignal(own.progress, timeout=LONG_MS):
        number = own.run(plan.for_worker(6))
    with qtbot.waitSignal(own.failed, timeout=LONG_MS) as failed:
        os.kill(own._process.processId(), signal.SIGKILL)
    assert failed.args[0]["id"] == number
    assert "Finished tiles are kept" in failed.args[0]["message"]
    with qtbot.waitSignal(own.finished, timeout=LONG_MS):
        own.run(plan.for_worker(6))


@pytest.fixture(params=["awake", "held"])
def slow(request, qapp, monkeypatch):
    """A process whose engine takes a minute per batch, in Python or held up in one call."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("SLOW_CHILD", request.param)
    made = Worker(module="slow_child")
    yield made
    made.close()


def begun(qtbot, slow, slide, folder):
    plan = AskPlan.of(slide, PanelQuestion("detect", ("nucleus",), options=RunOptions(mask="all")), {}, runs=folder)
    with qtbot.waitSignal(slow.progress, timeout=50_000):
        slow.run(plan.for_worker(6))
    return plan.out


def test_cancel_does_not_wait_for_a_slow_batch(qtbot, slow, slide, tmp_path):
    folder = begun(qtbot, slow, slide, tmp_path)
    with qtbot.waitSignal(slow.stopped, timeout=50_000):  # a batch takes longer
        slow.cancel()
    assert not slow.busy
    with RunStore.open(folder) as store:
        assert len(store.finished()) == 1 < len(store.tiles())


def test_closing_does_not_wait_for_a_slow_batch_and_the_run_goes_on_later(qtbot, slow, slide, tmp_path):
    folder = begun(qtbot, slow, slide, tmp_path)
    process = slow._process.processId()
    slow.close(800)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with RunStore.open(folder, readonly=False) as store:
        assert len(store.finished()) == 1 < len(store.tiles())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"model": "nowhere/at/all"}, "no such folder"), ({"mask": "missing.geojson"}, "missing.geojson")],
)
def test_what_cannot_be_done_comes_back_in_words(qtbot, worker, slide, tmp_path, options, words):
    question = PanelQuestion("detect", ("nucleus",), options=RunOptions(**{"mask": "all", **options}))
    plan = AskPlan.of(slide, question, {"tile_size": 256, "mpp": 0.25}, runs=tmp_path)
    with qtbot.waitSignal(worker.failed, timeout=LONG_MS) as failed:
        worker.run(plan.for_worker(6))
    assert words in failed.args[0]["message"]
    assert not worker.busy


def test_the_process_ends_when_the_viewer_is_gone():
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-m", "napari_qwenvl.process.child"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdin.write(json.dumps({"do": "unload"}).encode() + b"\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"is": "unloaded"}
    child.stdin.close()
    assert child.wait(timeout=30) == 0
    child.stdout.close()


def test_another_slide_than_the_viewer_shows_is_refused(tmp_path):
    from napari_qwenvl.ask.region import open_shown, read_tiles
    from wsi import open_slide
    from wsi.errors import SlideChangedError
    from wsi.tile import Tile

    path = make_slide(tmp_path, "a.svs", seed=1)
    with open_slide(path) as shown:
        command = {"slide": str(path), "model": {}, "fingerprint": shown.fingerprint}
    assert read_tiles(command, [Tile(0, 0, 0, 64, 64, 32, 32)])[0].shape == (32, 32, 3)
    (tmp_path / "other").mkdir()
    make_slide(tmp_path / "other", "a.svs", seed=2).replace(path)
    with pytest.raises(SlideChangedError, match="changed since the viewer opened it"):
        open_shown(command)
    with open_shown(command | {"fingerprint": ""}) as slide:
        assert slide.path == path
