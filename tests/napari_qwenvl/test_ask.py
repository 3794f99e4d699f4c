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
from panel_helpers import make_slide

from napari_qwenvl.asked import ASKED, Region, kept
from napari_qwenvl.plan import (
    Cost,
    Plan,
    Question,
    cost_of,
    in_words,
    memory_of,
    recommended_of,
    write_regions,
)
from workflows.commands.options import RunOptions
from workflows.store import RunStore
from wsi import open_slide

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("slide"))


def plan_of(slide, runs, question=None, **options):
    question = question or Question("detect", ("nucleus",), options=RunOptions(**options))
    return Plan.of(slide, question, recommended_of("embedded"), runs=runs)


def answers_of(folder):
    with RunStore.open(folder) as store:
        return store.manifest.identity, [found.answer.raw for found in store.iter_answers(raw=True)]


@pytest.mark.slow
def test_command_and_script_make_the_very_run(slide, tmp_path):
    """The three runs are of one identity, and a folder made by one is gone on with by the others."""
    with open_slide(slide) as opened:
        mask = write_regions(
            tmp_path / "regions", [[[40, 40], [300, 50], [280, 300]]], (opened.width, opened.height)
        )
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
    assert plan_of(slide, tmp_path, Question("detect", ("vessel",))).out != again


TASKS = [
    Question("point", ("mitosis",)), Question("count", ("nucleus",), prompt="How many?"),
    Question("classify", ("tumor", "stroma it's")), Question("score", prompt="Is there 'tumor'?"),
    Question("describe"), Question("ask", prompt='What "is" this?\nSay it.'),
]  # fmt: skip


@pytest.mark.parametrize("question", TASKS, ids=lambda question: question.task)
def test_every_task_is_said_as_a_command_that_builds_the_same_request(slide, tmp_path, question, monkeypatch):
    import typer

    from workflows.commands import ask as commands
    from workflows.commands._run import recommended_request

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
