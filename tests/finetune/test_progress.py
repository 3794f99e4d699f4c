"""A run told to another program: its events, its end over the pipe, pictures of held-out tiles, joined datasets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from finetune.config import FinetuneConfig
from finetune.dataset.joining import join_datasets
from finetune.dataset.samples import Area, Dataset, Label, SlideEntry
from finetune.errors import DatasetError, RecipeError
from finetune.evaluation.before_after import HeldOutAgreement, agreement
from finetune.training import progress
from qwenvl.answer import TileObject

pytest.importorskip("peft")


def recipe(cells, base, out) -> FinetuneConfig:
    return FinetuneConfig(
        dataset=cells.folder,
        out=out,
        base=str(base),
        device="cpu",
        max_new_tokens=24,
        tile={"size": 96},
        lora={"rank": 2},
        evaluate={"tiles": 2, "base": False},
        train={"steps": 3, "batch": 2, "learning_rate": 1e-3, "save_every": 1},
    )


def events(config, tmp_path, words: str) -> tuple[int, list[dict]]:
    config.save(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "qwenvl", "finetune", str(tmp_path / "recipe.yaml"), "--events"]
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_end_of_the_input_stops_it_and_the_next_call_finishes(cells, tiny, tmp_path):
    config = recipe(cells, tiny("Qwen3-VL"), tmp_path / "run")
    code, told = events(config, tmp_path, "")
    assert code == 130
    assert told[-1] == {"is": "stopped", "step": 1}
    seen: list[dict] = []

    def send(kind, **facts):
        seen.append({"is": kind, **json.loads(json.dumps(facts))})

    assert progress.tell(config, send, threading.Event()) is False
    steps = [event["step"] for event in seen if event["is"] == "step"]
    assert steps == [2, 3]
    kinds = [event["is"] for event in seen]
    assert kinds.index("finished") < kinds.index("pictured")
    rows = json.loads((tmp_path / "run" / "before-after" / "tiles.json").read_text())
    held = {entry.id for entry in cells.of_split("validation")}
    assert rows
    for row in rows:
        assert row["slide"] in held
        labels = [label for label in cells.labels if label.slide == row["slide"]]
        x0, y0, x1, y1 = row["rect"]
        assert [x1 - x0, y1 - y0] == row["size"]  # level-0 px and px of the picture are the same here
        for item in row["truth"]:
            left, top, right, bottom = item["box"]
            cut = [
                (max(a - x0, 0), max(b - y0, 0), min(c - x0, x1 - x0), min(d - y0, y1 - y0))
                for a, b, c, d in (label.box for label in labels if label.name == item["label"])
            ]
            assert (left, top, right, bottom) in cut
        assert (tmp_path / "run" / "before-after" / row["picture"]).is_file()


def test_two_processes_never_train_in_one_folder(cells, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_S", 0.1)
    config = recipe(cells, tiny("Qwen3-VL"), tmp_path / "run")
    with progress.OnlyOne(config.out), pytest.raises(RecipeError, match="another process trains there"):
        progress.tell(config, lambda kind, **facts: None, threading.Event())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("CUDA out of memory. Tried"), "choose a preset that takes less"),
        (ModuleNotFoundError("No module named 'peft'"), r"install napari-qwenvl\[finetune\]"),
        (RecipeError("labels x are not in dataset"), "^labels x"),
        (ZeroDivisionError("division"), "ZeroDivisionError: division"),
    ],
)
def test_errors_say_what_to_do(error, words):
    import re

    assert re.search(words, progress.explained(error)["message"])


def box(label, *corners):
    return TileObject(label, box=corners)


@pytest.mark.parametrize(
    ("truth", "said", "expected"),
    [
        ([], [], (0, 0, 0)),
        ([box("a", 0, 0, 10, 10)], [], (0, 1, 0)),
        ([box("a", 0, 0, 10, 10)], [box("a", 1, 0, 11, 10)], (1, 0, 0)),
        ([box("a", 0, 0, 10, 10)], [box("b", 0, 0, 10, 10)], (0, 1, 1)),
        ([box("a", 0, 0, 10, 10)], [box("a", 0, 0, 10, 10), box("a", 0, 0, 10, 10)], (1, 0, 1)),
        ([box("a", 0, 0, 10, 10)], [box("a", 6, 0, 16, 10)], (0, 1, 1)),
    ],
)
def test_what_a_tile_found_missed_and_invented(truth, said, expected):
    assert agreement(truth, said) == HeldOutAgreement(*expected)


def dataset(slide: SlideEntry, *labels: Label, areas=()) -> Dataset:
    return Dataset("d", tuple(sorted({label.name for label in labels})) or ("a",), (slide,), labels, areas)


def test_datasets_are_joined_by_file():
    one = SlideEntry("s", "/x/s.svs", "f1", 100, 100, patient="s", split="train")
    other = SlideEntry("s", "/y/s.svs", "f2", 100, 100, patient="s")
    label = Label("s", "a", (1.0, 1.0, 5.0, 5.0))
    area = Area("s", ((0, 0), (9, 0), (9, 9)))
    joined = join_datasets(
        "j",
        [
            dataset(one, label, areas=(area,)),
            dataset(one, label, Label("s", "b", (2.0, 2.0, 6.0, 6.0))),
            dataset(other, label),
        ],
    )
    assert joined.names == ("a", "b")
    assert [slide.id for slide in joined.slides] == ["s", "y/s"]
    assert [slide.split for slide in joined.slides] == ["", ""]
    assert [(item.slide, item.name) for item in joined.labels] == [("s", "a"), ("s", "b"), ("y/s", "a")]
    assert [item.slide for item in joined.areas] == ["s"]
    changed = replace(one, fingerprint="f9")
    with pytest.raises(DatasetError, match="changed while labels were read"):
        join_datasets("j", [dataset(one, label), dataset(changed, label)])
    with pytest.raises(DatasetError, match="nothing to join"):
        join_datasets("j", [])
