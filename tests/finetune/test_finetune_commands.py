"""The command line of fine-tuning, from annotation files to an adapter in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from voc_cells import write_cells

from finetune.commands import app
from finetune.dataset.build import BuildOptions, build_dataset
from finetune.dataset.importers import read_labels
from finetune.errors import LabelFileError

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    return write_cells(tmp_path_factory.mktemp("voc") / "voc", 6)


def test_from_files_to_an_adapter(voc, tiny, tmp_path):
    data, model = tmp_path / "cells", tiny("Qwen3-VL")
    built = run("dataset", "build", data, "-l", voc / "annotations", "-i", voc / "images", "--rename", "dark=tumor")
    assert built.exit_code == 0, built.output
    assert "18 labels" in built.output
    assert run("dataset", "split", data, "--validation", "0.34").exit_code == 0
    shown = run("dataset", "show", data, "-m", model, "--tile-size", 96, "-o", tmp_path / "t.png", "--words")
    assert shown.exit_code == 0, shown.output
    assert "tumor" in shown.output
    assert (tmp_path / "t.png").stat().st_size > 1000
    stats = json.loads(run("dataset", "stats", data, "-m", model, "--tile-size", 96, "--json").output)
    assert stats["train"]["slides"] == 4
    assert stats["train"]["labels"]["tumor"] + stats["train"]["labels"]["light"] == 12
    exported = run(
        "dataset", "export", data, "-m", model, "--tile-size", 96, "--form", "llava", "-o", tmp_path / "llava"
    )
    assert exported.exit_code == 0, exported.output

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: cells\nout: run\nbase: {model}\ndevice: cpu\ntile: {{size: 96}}\nmax_new_tokens: 16\n"
        "lora: {rank: 2}\n"
        "train: {steps: 2, batch: 2}\nevaluate: {tiles: 1}\n"
        "replay: {share: 0.2, limit: 0, sources: [{name: same, kind: tiles, examples: 3, held_out: 1,\n"
        "  questions: [{task: score, prompt: 'Is it dark?'}]}]}\n"
    )
    checked = run("finetune", recipe, "--check")
    assert checked.exit_code == 0, checked.output
    trained = run("finetune", recipe)
    assert trained.exit_code == 0, trained.output
    adapter = tmp_path / "run" / "adapter"
    assert "older skills" in trained.output
    info = run("adapter", "info", adapter)
    assert "tumor" in info.output
    assert run("adapter", "evaluate", adapter, data, "--tiles", 1, "-o", tmp_path / "e.json").exit_code == 0
    assert "adapter" in json.loads((tmp_path / "e.json").read_text())
    assert run("adapter", "merge", adapter, tmp_path / "merged").exit_code == 0

    # In the engine of the slide commands, and in the report.
    from workflows.commands import app as slides

    out = tmp_path / "detect"
    flags = ["-l", "tumor", "--tile-size", "96", "--overlap", "0", "--native", "--mask", "all", "--max-new-tokens", "8"]
    words = ["detect", str(voc / "images" / "p00.png"), "-m", str(model), "--adapter", str(adapter), "-o", str(out)]
    used = CliRunner().invoke(slides, [*words, *flags])
    assert used.exit_code == 0, used.output
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["adapter"] == str(adapter)
    assert report["model"]["versions"]["adapter"].startswith("run sha256:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3", "out: Field required"),
        ("out: o", "give what is to be learned: a dataset, or conversations"),
        ("dataset: d\nout: o\ntrain: {steps: 0}", "train.steps"),
        ("- 1", "'name: value' lines"),
        ("dataset: [", "as YAML"),
        ("dataset: d\nout: o\nlora: {targets: vision}", "lora.targets"),
    ],
)
def test_settings_that_are_wrong(text, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    result = run("finetune", path)
    assert result.exit_code == 1
    assert message in result.output


def test_unknown_classes_and_missing_pictures(voc, tmp_path):
    result = run(
        "dataset", "build", tmp_path / "d", "-l", voc / "annotations", "-i", voc / "images", "--classes", "dark"
    )
    assert result.exit_code == 1
    assert "class 'light' is not among dark" in result.output
    assert not (tmp_path / "d").exists()
    result = run("dataset", "build", tmp_path / "d", "-l", voc / "annotations", "-i", tmp_path)
    assert result.exit_code == 1
    assert "--images" in result.output


def test_reviewed_results_become_labels(tmp_path):
    import cv2
    import numpy as np

    from qwenvl.engines.fake import FakeEngine
    from qwenvl.request import Request
    from workflows.review.decisions import Action, Change, Reviews, Verdict, new_object_name
    from workflows.run.slide import run_slide

    cv2.imwrite(str(tmp_path / "s.png"), np.full((128, 128, 3), 120, np.uint8))
    folder = tmp_path / "run"
    run_slide(
        tmp_path / "s.png",
        Request(task="detect", labels=("cell",), tile_size=64, overlap=0),
        FakeEngine(),
        folder,
        mask="all",
    )
    with pytest.raises(LabelFileError, match="has no reviews"):
        read_labels(folder)
    with Reviews.open(folder, who="reviewer") as reviews:
        reviews.decide(
            [
                Change(Action.ADD, new_object_name(), Verdict.EDITED, "mitosis", (10.0, 12.0, 30.0, 34.0)),
                Change(Action.ADD, new_object_name(), Verdict.EDITED, "mitosis", (90.0, 12.0, 99.0, 34.0)),
            ]
        )
        reviews.decide([Change(Action.ADD, new_object_name(), Verdict.EDITED, "slip", (50.0, 50.0, 60.0, 60.0))])
        reviews.undo()
    data = build_dataset("d", [(folder, None)], BuildOptions())
    assert [(label.name, label.box) for label in data.labels] == [
        ("mitosis", (10.0, 12.0, 30.0, 34.0)),
        ("mitosis", (90.0, 12.0, 99.0, 34.0)),
    ]
    assert not data.areas  # only a person knows whether missed objects were looked for
    assert data.slides[0].id == "s"
