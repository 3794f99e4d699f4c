"""Recipes by memory: what fits is chosen, and the estimate is that of the loaded model."""

from __future__ import annotations

import pytest
import torch

from finetune.methods.lora import LoraSettings, add_lora, trainable
from finetune.preflight import training_memory
from finetune.presets import LARGE, SMALL, BaseFacts, RecipeChoice, choices, chosen, free_memory
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.errors import CheckpointError

GIB = 2**30
BIG = "Qwen/Qwen3-VL-8B-Instruct"


def test_the_estimate_is_that_of_the_loaded_model():
    preset, facts = SMALL[0], BaseFacts.of("embedded", 256)
    checkpoint = load_checkpoint("embedded", device="cpu", dtype="float32")
    settings = LoraSettings(**(dict(preset.lora) | {"merger": False}))
    model = add_lora(checkpoint.model, settings, checkpoint.family)
    learning = sum(trainable(model).values())
    assert facts.learning(preset) == pytest.approx(learning, rel=0.1)
    measured = training_memory(
        model.get_base_model(), learning, facts.tokens + 400, preset.batch, checkpointing=False, compute=torch.bfloat16
    )
    assert facts.memory(preset) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("gib", "expected"), [(80, "thorough"), (24, "economical"), (None, "thorough")])
def test_the_most_thorough_that_fits_is_chosen(gib, expected):
    found = choices(BIG, 448, None if gib is None else gib * GIB)
    assert [each.preset.name for each in found][:3] == [preset.name for preset in LARGE[:3]]
    memory = [each.memory for each in found]
    assert memory == sorted(memory, reverse=True)
    assert chosen(found).preset.name == expected


def test_where_nothing_fits_the_smallest_is_named_and_said_not_to_fit():
    last = chosen(choices(BIG, 448, 2 * GIB))
    assert isinstance(last, RecipeChoice)
    assert not last.fits


def test_models_that_are_not_known_or_no_checkpoint(tmp_path):
    assert choices("someone/else", 448, GIB)[0].memory is None
    with pytest.raises(CheckpointError):
        choices(str(tmp_path), 448, GIB)


def test_free_memory_is_said_with_its_place():
    amount, where = free_memory()
    assert where
    assert amount is None or amount > 0
