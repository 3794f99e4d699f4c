"""The Ask panel: what its fields say becomes one exact run, whoever makes it; faults become words."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from panel_helpers import make_run, make_slide
from qtpy.QtCore import QUrl

from napari_qwenvl.ask.asked import ASKED, Region, kept
from napari_qwenvl.ask.cost import Cost, cost_of, in_words, memory_of
from napari_qwenvl.ask.here import AskHerePanel
from napari_qwenvl.ask.panel import AskPanel
from napari_qwenvl.ask.plan import AskPlan, PanelQuestion, recommended_of, write_regions
from napari_qwenvl.process.running import running_of
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import layer_data, open_for_viewing
from qwenvl.request import Request
from workflows.run.options import RunOptions
from workflows.store.run_store import RunStore
from wsi import open_slide

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("slide"))


def plan_of(slide, runs, question=None, **options):
    question = question or PanelQuestion("detect", ("nucleus",), options=RunOptions(**options))
    return AskPlan.of(slide, question, recommended_of("embedded"), runs=runs)


def answers_of(folder):
    with RunStore.open(folder) as store:
        return store.manifest.identity, [found.answer.raw for found in store.iter_answers(raw=True)]


@pytest.mark.slow
def test_command_and_script_make_the_very_run(slide, tmp_path):
    """The three runs are of one identity, and a folder made by one is gone on with by the others."""
    with open_slide(slide) as opened:
        mask = write_regions(tmp_path / "regions", [[[40, 40], [300, 50], [280, 300]]], (opened.width, opened.height))
    plan = plan_of(slide, tmp_path, mask=str(mask), max_new_tokens=64)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = plan.command()
    assert command.startswith("qwenvl detect ")
    subprocess.run(
        [sys.executable, "-m", *__import__("shlex").split(command)], check=True, env=environment, cwd=tmp_path
    )
    first = answers_of(plan.out)
    assert any(first[1])
    plan.out.rename(tmp_path / "by-command")
    script = tmp_path / "script.py"
    script.write_text(plan.python())
    printed = subprocess.check_output([sys.executable, script], env=environment, cwd=tmp_path, text=True)
    assert printed.strip() == str(plan.out / "report.json")
    assert answers_of(plan.out) == first


def test_the_same_question_about_the_same_place_is_the_same_run(slide, tmp_path):
    again = plan_of(slide, tmp_path).out
    assert plan_of(slide, tmp_path).out == again
    assert plan_of(slide, tmp_path, mask="all").out != again
    assert plan_of(slide, tmp_path, mpp=0.5).out != again
    assert plan_of(slide, tmp_path, seed=1).out != again
    assert plan_of(slide, tmp_path, PanelQuestion("detect", ("vessel",))).out != again


TASKS = [
    PanelQuestion("point", ("mitosis",)),
    PanelQuestion("count", ("nucleus",), prompt="How many?"),
    PanelQuestion("classify", ("tumor", "stroma it's")),
    PanelQuestion("score", prompt="Is there 'tumor'?"),
    PanelQuestion("describe"),
    PanelQuestion("ask", prompt='What "is" this?\nSay it.'),
]


@pytest.mark.parametrize("question", TASKS, ids=lambda question: question.task)
def test_every_task_is_said_as_a_command_that_builds_the_same_request(slide, tmp_path, question, monkeypatch):
    import typer

    from workflows.commands import ask as commands
    from workflows.run.options import recommended_request

    plan, seen = plan_of(slide, tmp_path, question), []

    def take(path, run, **asked):
        if isinstance(labels := asked.get("labels"), str):
            asked["labels"] = tuple(label.strip() for label in labels.split(","))
        seen.append(recommended_request(run, recommended_of("embedded"), **asked))

    monkeypatch.setattr(commands, "_ask_slide", take)
    app = typer.Typer()
    commands.register(app)
    app(shlex.split(plan.command())[1:], standalone_mode=False)
    assert seen == [plan.request]
    names: dict[str, object] = {}
    exec(plan.python().split("engine =")[0], names)
    assert names["request"] == plan.request


def test_what_a_run_costs_is_known_before(slide, tmp_path):
    plan = plan_of(slide, tmp_path, mask="all")
    with open_slide(slide) as opened:
        masks: dict = {}
        cost = cost_of(opened, plan.request, plan.question.options, masks)
        assert list(masks) == ["all"]
        x = np.arange(0, opened.width - 256 + 192, 192)
        assert cost.tiles == len(x) * len(np.arange(0, opened.height - 256 + 192, 192))
    assert isinstance(cost, Cost)
    assert 1e6 < cost.memory < 1e9
    assert all(len(numbers) == 6 for numbers in cost.probes)
    assert memory_of(RunOptions(model="Qwen/Qwen3-VL-8B-Instruct"), plan.request) > 15 * 2**30
    assert memory_of(RunOptions(server="http://x"), plan.request) is None
    assert [in_words(s) for s in (0.2, 45, 600, 7200, None)] == ["1 s", "45 s", "10 min", "2.0 h", "unknown"]


def test_regions_become_a_mask_file_of_their_own_name(tmp_path):
    triangle = [[10, 10], [90, 10], [10, 90]]
    path = write_regions(tmp_path, [triangle], (100, 80))
    assert write_regions(tmp_path, [triangle], (100, 80)) == path
    assert write_regions(tmp_path, [triangle, [[50, 50], [60, 50], [60, 60], [50, 60]]], (100, 80)) != path
    assert json.loads(path.read_text())["features"][0]["geometry"]["type"] == "Polygon"
    with pytest.raises(ValueError, match="No region lies on the slide"):
        write_regions(tmp_path, [[[200, 200], [300, 200], [300, 300]]], (100, 80))


@pytest.mark.parametrize(
    ("outline", "shown", "rect"),
    [
        ([[100, 100], [200, 100], [200, 180], [100, 180]], False, (100, 100, 100, 80)),
        ([[100, 100], [200, 100], [200, 200], [100, 200]], True, (85, 85, 130, 130)),
        ([[-50, -50], [64, -50], [64, 64], [-50, 64]], False, (0, 0, 64, 64)),
    ],
)
def test_a_region_is_where_it_was_drawn(slide, outline, shown, rect):
    with open_slide(slide) as opened:
        region = Region.of(opened, outline, mpp=0.25, show_outline=shown, marked=[outline] if shown else ())
        assert region.rect == rect
        assert all(side % 32 == 0 for side in region.size)
        assert len(region.marks) == (2 if shown else 0)
        with pytest.raises(ValueError, match="no area on the slide"):
            Region.of(opened, np.array(outline) + 10_000, mpp=0.25)


def test_what_was_asked_before_survives_a_line_cut_off_by_a_crash(tmp_path):
    (tmp_path / ASKED).write_text('{"question": "cut o')
    assert kept(tmp_path) == []


# ---------------------------------------------------------------------- the panels


@pytest.fixture
def viewer(qtbot, slide):
    model = ViewerModel()
    data, options, _ = layer_data(open_for_viewing(slide))
    model.add_image(data, **options)
    yield model
    running_of(model).close()


@pytest.fixture
def panel(viewer, qtbot):
    made = AskPanel(viewer)
    qtbot.addWidget(made)
    return made


def planned(panel, qtbot):
    with qtbot.waitSignal(panel.planned, timeout=60_000):
        panel.make_plan()
    return panel.plan


def choose(panel, number):
    panel.scope.button(number).setChecked(True)


def draw(panel):
    shapes = panel.viewer.add_shapes(
        [np.array([[100, 100], [100, 300], [250, 300], [250, 100]])], **Frame.of(0.25).corner_options()
    )
    panel.viewer.layers.selection.active = shapes


FAULTS = [
    ("no slide", lambda p: p.viewer.layers.clear(), "Open a slide first"),
    ("no labels", lambda p: p.labels.setText(" , "), "needs at least one label"),
    ("one class", lambda p: p.task.setCurrentText("Sort tiles into classes"), "at least two labels"),
    ("no question", lambda p: p.task.setCurrentText("Ask in words"), "needs a question"),
    ("no schema", lambda p: p.task.setCurrentText("Fill in a form (JSON Schema)"), "needs a JSON Schema"),
    ("scale in words", lambda p: p.advanced.scale.setCurrentText("fine"), "'fine' is not a number"),
    ("tile too large", lambda p: p.advanced.tile_size.setValue(4096), "use a tile size of at most"),
    ("no shapes", lambda p: choose(p, 1), "Draw regions in a Shapes layer"),
]


@pytest.mark.parametrize(("name", "spoil", "words"), FAULTS, ids=[row[0] for row in FAULTS])
def test_what_is_missing_is_said_before_anything_runs(panel, qtbot, name, spoil, words):
    assert planned(panel, qtbot) is not None
    spoil(panel)
    assert planned(panel, qtbot) is None or panel.cost is None
    assert words in panel.estimate.text()
    assert not panel.run.isEnabled()
    panel.run.click()
    assert panel.running.worker._process is None


def test_a_picture_that_is_no_slide(panel, qtbot):
    panel.viewer.layers.clear()
    panel.viewer.add_image(np.zeros((9, 9)), name="gray")
    planned(panel, qtbot)
    assert "'gray' is not a slide" in panel.estimate.text()


def test_a_slide_without_a_scale_asks_for_it(qtbot, tmp_path):
    path = tmp_path / "plain.tif"
    from PIL import Image

    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(90, 200, (512, 640, 3), np.uint8)).save(path)
    model = ViewerModel()
    data, options, _ = layer_data(open_for_viewing(path))
    model.add_image(data, **options)
    panel = AskPanel(model)
    qtbot.addWidget(panel)
    assert planned(panel, qtbot) is None
    assert "does not state its pixel size" in panel.estimate.text()
    panel.advanced.slide_mpp.setValue(0.25)
    panel.advanced.set_mpp.click()
    plan = planned(panel, qtbot)
    assert plan.question.options.slide_mpp == 0.25
    assert "--slide-mpp 0.25" in plan.command()
    running_of(model).close()


def test_scopes_become_masks(panel, qtbot):
    choose(panel, 2)
    assert planned(panel, qtbot).question.options.mask == "auto"
    choose(panel, 0)
    field = json.loads(Path(planned(panel, qtbot).question.options.mask).read_text())
    draw(panel)
    choose(panel, 1)
    region = json.loads(Path(planned(panel, qtbot).question.options.mask).read_text())
    corners = np.array(region["features"][0]["geometry"]["coordinates"][0])
    assert corners.min(axis=0).tolist() == [100, 100]
    assert corners.max(axis=0).tolist() == [300, 250]
    assert region != field


def test_an_interrupted_run_of_anyone_can_be_gone_on_with(panel, qtbot, slide, tmp_path, monkeypatch):
    assert not panel.go_on.isEnabled()
    folder = make_run(slide, tmp_path / "run", limit=2)
    panel.running.open_run(folder)
    qtbot.waitUntil(panel.go_on.isEnabled, timeout=60_000)
    sent = []
    monkeypatch.setattr(panel.running.worker, "run", sent.append)
    panel.go_on.click()
    with RunStore.open(folder) as store:
        manifest = store.manifest
    assert Request.model_validate(sent[0]["request"]) == manifest.request
    assert (sent[0]["mask"], sent[0]["out"], sent[0]["slide"]) == ("all", str(folder), str(slide))
    served = manifest.model_copy(
        update={"model": manifest.model.model_copy(update={"device": "server", "model": "m@http://x"})}
    )
    with pytest.raises(ValueError, match="through a server"):
        AskPlan.of_run(folder, served, slide)
    assert AskPlan.of_run(folder, served, slide, "http://y").question.options.model == "m"


def test_copying_gives_the_plan(panel, qtbot):
    from qtpy.QtWidgets import QApplication

    plan = planned(panel, qtbot)
    panel.copy_command.click()
    assert QApplication.clipboard().text() == plan.command()
    panel.copy_python.click()
    assert QApplication.clipboard().text() == plan.python()


class TestAskHere:
    """The panel that asks about one place, with the worker's answers planted."""

    @pytest.fixture
    def here(self, viewer, qtbot, monkeypatch, tmp_path):
        monkeypatch.setattr("napari_qwenvl.ask.here.runs_folder", lambda slide: tmp_path)
        made = AskHerePanel(viewer)
        qtbot.addWidget(made)
        made.sent = []

        def ask(command):
            made.sent.append(command)
            return len(made.sent)

        monkeypatch.setattr(made.running.worker, "ask", ask)
        return made

    def outline(self, here):
        here.draw("add_rectangle")
        corners = np.array([[100, 200], [100, 360], [260, 360], [260, 200]], float)
        here._layer.add(corners, shape_type="rectangle")

    def answer(self, here, **fields):
        objects = [{"label": "tumor", "box": [210, 110, 240, 140], "point": False, "score": 0.7}] * 2
        answer = {
            "status": "ok",
            "text": "Two tumors here.",
            "reasoning": None,
            "error": None,
            "raw": "",
            "notes": [],
            "seconds": 1.0,
            "objects": objects,
            "value": None,
            "scores": {},
        }
        here.running.worker.answered.emit({"id": len(here.sent), "answer": answer | fields})

    def test_the_place_stays_and_the_answer_is_shown_and_kept(self, here, viewer, tmp_path):
        self.outline(here)
        for question in ("What is it?", "And how many?"):
            here.question.setText(question)
            here.on_ask()
            self.answer(here)
        assert [tuple(command["region"]) for command in here.sent] == [(200, 100, 160, 160)] * 2
        assert [asked.question for asked in kept(tmp_path)] == ["What is it?", "And how many?"]
        assert kept(tmp_path) == here.asked
        assert here.overlay.objects.box.tolist() == [[210, 110, 240, 140]] * 2
        assert "label:1:tumor" in here.talk.toHtml()
        lit = []
        here.overlay.highlight = lambda rows: lit.append(list(rows))
        here._on_hover(QUrl("label:1:tumor"))
        here._on_hover(QUrl())
        assert lit == [[0, 1], []]

    def test_a_further_question_comes_with_what_was_said_before(self, here, tmp_path):
        self.outline(here)
        sent = []
        for number, question in enumerate(("What is it?", "And how many?", "Sure?")):
            here.question.setText(question)
            here.follow_up.setChecked(number < 2)
            here.on_ask()
            sent.append(here.sent[-1]["turns"])
            self.answer(here, raw=f"<think>hm</think> Answer {number}.")
        assert sent == [[], [["What is it?", "Answer 0."]], []]
        assert [asked.turns for asked in kept(tmp_path)] == [0, 1, 0]
        here.follow_up.setChecked(True)
        here._layer.add(np.array([[10, 20], [10, 90], [80, 90], [80, 20]], float), shape_type="rectangle")
        here.question.setText("And here?")
        here.on_ask()
        assert here.sent[-1]["turns"] == [], "another place is another conversation"
        here.model.setCurrentText("Qwen/Qwen3-VL-4B-Instruct")
        assert here.follow_up.isChecked()
        here.model.setCurrentText("embedded")
        assert not here.follow_up.isChecked(), "it was never taught conversations"

    def test_marks_inside_are_numbered_for_the_model(self, here):
        self.outline(here)
        inner = np.array([[150, 250], [150, 270], [170, 270], [170, 250]], float)
        here._layer.add(inner, shape_type="rectangle")
        here.show_outline.setChecked(True)
        here.question.setText("Which?")
        here.on_ask()
        marks = here.sent[0]["marks"]
        assert [(mark["kind"], mark.get("number")) for mark in marks] == [("outline", None), ("outline", 1)]
        assert np.ptp(np.array(marks[1]["points"]), axis=0).tolist() == [20, 20]

    def test_faults_are_said(self, here):
        here.question.setText("What?")
        here.on_ask()
        assert "Outline a place first" in here.message.text()
        self.outline(here)
        here.question.clear()
        here.on_ask()
        assert "Write a question" in here.message.text()
        here.question.setText("What?")
        here.on_ask()
        here.running.worker.failed.emit({"id": 1, "kind": "x", "message": "Memory ran out."})
        assert here.message.text() == "Memory ran out."
        assert here.sent
        assert not here.asked

    def test_the_model_sees_the_marks_and_places_come_back_in_level0_px(self, slide):
        from napari_qwenvl.ask.region import ask_region
        from qwenvl.answer import Answer, Status, TileObject
        from qwenvl.checkpoints.training_domain import TrainedOn
        from qwenvl.engines.base import ModelInfo
        from qwenvl.subject import Turn

        class Eye:
            info = ModelInfo("eye", "none", "sha256:0", trained=TrainedOn(320, (0.25, 0.5)))

            def answer(self, pictures, request):
                self.picture = pictures[0]
                return [Answer(Status.OK, text="x", objects=(TileObject("a", box=(32, 32, 64, 96)),))]

        eye = Eye()
        outline = [[220, 120], [340, 120], [340, 240], [220, 240]]
        command = {
            "slide": str(slide),
            "model": {},
            "region": (200, 100, 160, 160),
            "size": (320, 320),
            "request": {"task": "ask", "prompt": "What?", "tile_size": 320},
            "marks": [{"kind": "outline", "points": outline, "colour": "yellow"}],
        }
        found = ask_region(eye, command)
        assert found["objects"][0]["box"] == [216, 116, 232, 148]
        assert found["doubts"] == []
        marked = eye.picture.astype(int)
        ask_region(eye, command | {"marks": []})
        changed = np.argwhere(np.abs(marked - eye.picture).sum(axis=-1) > 60)
        assert np.abs(changed.min(axis=0) - 40).max() <= 6
        assert np.abs(changed.max(axis=0) - 280).max() <= 6
        eye.answer = lambda subjects, request: eye.__dict__.update(seen=subjects[0]) or [Answer(Status.OK)]
        ask_region(eye, command | {"turns": [["What?", "A."]]})
        assert eye.seen.turns == (Turn("What?", "A."),)
        assert eye.seen.pictures[0].pixels.shape == (320, 320, 3)
        [doubt] = ask_region(eye, command | {"region": (200, 100, 160, 80), "size": (320, 160)})["doubts"]
        assert "trained on squares" in doubt
