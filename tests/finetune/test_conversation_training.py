"""Given conversations as the target, adapters that reach into the vision tower, and metrics of written answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from finetune.config import FinetuneConfig
from finetune.conversations.formats import read_conversations
from finetune.conversations.given import ConversationExam, GivenQuestion, read_split, request_for
from finetune.errors import DatasetError, LeakError, RecipeError
from finetune.evaluation.text_metrics import Told, rouge_l, same, score_texts, token_f1
from finetune.methods.lora import LoraSettings, matched_modules
from finetune.train import finetune
from qwenvl.answer import Answer, Status
from qwenvl.checkpoints.adapters.adapter import AdapterSwitch, read_card
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Generation, Task
from qwenvl.scoring.agreement import auroc

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def write_talk(folder: Path, name: str, count: int, *, seed: int, picture: int | None = None) -> Path:
    """A file of questions about grey pictures: how light they are, as JSON."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        level = int(rng.integers(40, 220)) if picture is None else picture
        pixels = np.full((64, 96, 3), level, np.uint8) + rng.integers(0, 9, (64, 96, 3), np.uint8)
        file = f"{name}{number}.png"
        Image.fromarray(pixels).save(folder / file)
        parts = [{"type": "image", "image": file}, {"type": "text", "text": "Read it."}]
        answer = {"role": "assistant", "content": json.dumps({"light": level > 128})}
        rows.append({"messages": [{"role": "user", "content": parts}, answer]})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(folder: Path, base: Path, **changes) -> FinetuneConfig:
    fields = {
        "conversations": write_talk(folder, "train", 6, seed=1),
        "held_out": write_talk(folder, "held", 3, seed=2),
        "out": folder / "run",
        "base": str(base),
        "device": "cpu",
        "max_new_tokens": 12,
        "lora": {"rank": 2},
        "train": {"steps": 2, "batch": 2, "learning_rate": 0.02, "save_every": 1},
    }
    return FinetuneConfig(**(fields | changes))


# ---------------------------------------------------------------------- runs


def test_a_run_on_conversations(tiny, tmp_path):
    replay = {
        "share": 0.2,
        "sources": [
            {
                "name": "own words",
                "kind": "tiles",
                "examples": 4,
                "held_out": 1,
                "questions": [{"task": "score", "prompt": "Dark?"}],
            }
        ],
    }
    config = recipe(tmp_path, tiny("Qwen3-VL"), replay=replay, evaluate={"every": 1})
    result = finetune(config)
    assert result.score.metric == "exact"
    assert result.score.tiles == 3
    assert set(result.score.values) >= {"exact", "token_f1", "parse_rate", "schema_rate", "field_accuracy"}
    assert result.base.tiles == 3
    assert set(result.forgetting.before) == {"own words"}
    assert (tmp_path / "run/best/score.json").is_file()
    card = read_card(result.adapter)
    assert card.request["prompt"] == "Read it."
    assert card.request["tile_size"] == 96
    assert card.labels == ()
    assert card.facts["data"]["conversations"]["train"]["rows"] == 6
    text = json.dumps(card.facts)
    assert str(tmp_path) not in text  # no path of this machine
    # The saved settings are those of the run, so it goes on instead of being refused.
    assert finetune(FinetuneConfig.load(tmp_path / "run/config.yaml")).steps == 2
    switch = AdapterSwitch(load_checkpoint(tiny("Qwen3-VL")))
    assert LocalEngine(switch.use(result.adapter)).info.adapter == str(result.adapter)


def test_questions_of_words_alone(tiny, tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}]}
        for n in range(8)
    ]
    for name, part in (("train", rows[:6]), ("held", rows[6:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    config = FinetuneConfig(
        conversations=tmp_path / "train.json",
        held_out=tmp_path / "held.json",
        out=tmp_path / "run",
        base=str(tiny("Qwen3-VL")),
        device="cpu",
        max_new_tokens=4,
        lora={"rank": 2},
        train={"steps": 1, "batch": 2},
    )
    result = finetune(config)
    assert result.score.tiles == 2
    assert "parse_rate" not in result.score.values


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give what is to be learned"),
        ({"dataset": "a", "conversations": "b"}, "and not both"),
        ({"dataset": "a", "held_out": "b"}, "held_out belongs to conversations"),
        ({"dataset": "a", "evaluate": {"metric": "exact"}}, "is none of f1"),
        ({"conversations": "a", "evaluate": {"metric": "f1"}}, "is none of exact"),
    ],
)
def test_targets_that_do_not_fit_together(fields, message):
    with pytest.raises(ValidationError, match=message):
        FinetuneConfig(out="run", **fields)


def test_files_that_are_missing_or_leak(tmp_path):
    training = write_talk(tmp_path, "a", 3, seed=1)
    with pytest.raises(DatasetError, match="no file of conversations"):
        read_split(training, tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="holds no conversation"):
        read_split(tmp_path / "empty.jsonl", None)
    again = write_talk(tmp_path, "copy", 3, seed=1)  # the same pixels under other names
    with pytest.raises(LeakError, match=r"3 pictures or questions of a\.jsonl are in the held-out file"):
        read_split(training, again)
    assert len(read_split(training, write_talk(tmp_path, "other", 2, seed=9))[1]) == 2


# ---------------------------------------------------------------------- the vision tower


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5"])
def test_the_tower_learns_where_it_is_asked_for(family, tiny):
    checkpoint = load_checkpoint(tiny(family))
    for settings in (LoraSettings(vision=True), LoraSettings(targets="everything")):
        names = matched_modules(checkpoint.model, settings, checkpoint.family)
        linears = {
            name
            for name, module in checkpoint.model.named_modules()
            if "visual.blocks." in name and isinstance(module, torch.nn.Linear)
        }
        assert linears == {name for name in names if "visual.blocks." in name}
    assert any("merger" in name for name in names)
    assert any("language_model" in name for name in names)


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL"])
def test_an_adapter_of_the_tower_is_trained_saved_and_loaded(family, tiny, tmp_path):
    # The checks before the first step compare gradients, logits after saving and after merging.
    config = recipe(tmp_path, tiny(family), lora={"rank": 2, "targets": "everything"})
    result = finetune(config)
    weights = load_file(result.adapter / "adapter_model.safetensors")
    moved = [key for key in weights if "visual.blocks." in key and "lora_B" in key]
    assert moved
    assert all(weights[key].abs().sum() > 0 for key in moved)
    switch = AdapterSwitch(load_checkpoint(tiny(family)))
    exam = ConversationExam.of(read_conversations(config.held_out), Generation(max_new_tokens=12))
    plain = exam.score(LocalEngine(switch.use(None)))  # its products are packed before the adapter comes
    found = exam.score(LocalEngine(switch.use(result.adapter)))
    assert found.values == result.score.values
    picture = [GivenQuestion.of(item).subject() for item in read_conversations(config.held_out)]
    request = request_for(read_conversations(config.held_out), Generation(max_new_tokens=12))
    raw = [a.raw for a in LocalEngine(switch.use(result.adapter)).answer(picture, request)]
    assert raw != [a.raw for a in LocalEngine(switch.use(None)).answer(picture, request)]
    assert exam.score(LocalEngine(switch.use(None))).values == plain.values


def test_a_family_without_known_tower_layers_is_refused(tiny):
    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    checkpoint.model.model.visual.blocks = torch.nn.ModuleList()
    with pytest.raises(RecipeError, match="no layer of a known name"):
        matched_modules(checkpoint.model, LoraSettings(vision=True), checkpoint.family)


# ---------------------------------------------------------------------- metrics of written answers


@pytest.mark.parametrize(
    ("truth", "answer", "f1", "rouge"),
    [
        ("stroma and fat", "stroma and fat", 1.0, 1.0),
        ("a b c d", "d c b a", 1.0, 0.25),
        ("a b", "c", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("a b c", "a c", 0.8, 0.8),
    ],
)
def test_words_by_hand(truth, answer, f1, rouge):
    assert token_f1(truth, answer) == pytest.approx(f1)
    assert rouge_l(truth, answer) == pytest.approx(rouge)


@pytest.mark.parametrize(
    ("truth", "answer", "expected"),
    [
        ('{"a": 1, "b": "x"}', '{"b":"x","a":1}', True),
        ('{"a": 1}', '```json\n{"a": 1}\n```', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', "a is 1", False),
        ("Yes.", "yes", True),
        ("no", "yes", False),
        ("37.5", "37.5", True),
        ("37.5", "375", False),
    ],
)
def test_the_same_answer(truth, answer, expected):
    assert same(truth, answer) is expected


def test_structured_answers_by_hand():
    truth = '{"value": 37.5, "unit": "C", "marks": [1, 2]}'
    told = [
        Told("a", truth, truth),
        Told("b", truth, '{"value": 37, "unit": "C", "marks": [1, 3]}'),  # 2 of 4 fields
        Told("c", truth, '{"value": "37.5", "unit": "C", "marks": [1, 2]}'),  # another kind of value
        Told("d", truth, '{"value": 37', cut=True),
    ]
    values = score_texts(told).values
    assert values["exact"] == 0.25
    assert values["parse_rate"] == 0.75
    assert values["schema_rate"] == 0.5
    assert values["field_accuracy"] == pytest.approx((4 + 2 + 3 + 0) / 16)
    assert values["cut_rate"] == 0.25


def test_area_under_the_curve():
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auroc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert np.isnan(auroc(np.array([0.5]), np.array([True])))


class DarkIsYes:
    """An engine that says yes to dark pictures with certainty, and writes 'no' to everything."""

    def batch_size(self, request):
        return 2

    def answer(self, subjects, request):
        if request.task is Task.SCORE:
            assert request.prompt == "Is it dark?"
            return [Answer(Status.OK, scores={"yes": 1 - float(s.pictures[0].pixels.mean()) / 255}) for s in subjects]
        assert request.prompt == "Is it dark? Answer yes or no."
        return [Answer(Status.OK, text="no", raw="no<|im_end|>") for _ in subjects]


def test_yes_and_no_are_judged_by_their_probability(tmp_path):
    rows = []
    for number, level in enumerate((20, 60, 180, 240)):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(
            {
                "image": f"{number}.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nIs it dark? Answer yes or no."},
                    {"from": "gpt", "value": "yes" if level < 100 else "no"},
                ],
            }
        )
    (tmp_path / "data.json").write_text(json.dumps(rows))
    exam = ConversationExam.of(read_conversations(tmp_path / "data.json"), Generation())
    score = exam.score(DarkIsYes())
    assert score.values["exact"] == 0.5
    assert score.values["auroc"] == 1.0
    assert score.tiles == 4
    assert len(ConversationExam.of(read_conversations(tmp_path / "data.json"), Generation(), most=2).asked) == 2
