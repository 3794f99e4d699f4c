"""Fine-tuning of small models: coordinate noise, the dense loss and replay of the pre-training, in a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config import FinetuneConfig
from finetune.errors import RecipeError
from finetune.examples.conversation import Exchange
from finetune.examples.examples import ExamplePlan
from finetune.examples.tokens import Tokens
from finetune.methods.loss import NumberTokenWeights
from recipes.training import SmallModelConfig, finetune
from recipes.training.coordinate_noise import CoordinateNoise


def test_noisy_coordinates_are_seen_and_never_taught():
    class Vocabulary:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [2 * int(text)] if text.isdigit() else [4001, 4002]}

    ids = (4000, 2 * 100, 2 * 500, 4001, 2 * 998)
    tokens = Tokens(ids, (False, False, True, True, True))
    noise = CoordinateNoise(NumberTokenWeights(Vocabulary()), 12.0)
    seen = [noise(ExamplePlan("a", tokens, Exchange("", "", places=True)), seed).tokens for seed in range(400)]
    moved = [t for t in seen if t.seen is not None]
    assert 0.5 < len(moved) / len(seen) < 0.7
    values = np.array([t.seen for t in moved])
    assert (values[:, [0, 1, 3]] == np.array([4000, 200, 4001])).all()  # words and the question stay
    assert values[:, 4].max() <= 2000
    assert 5 < np.std(values[:, 2] / 2) < 12
    assert all(t.ids == ids and t.labels == tokens.labels for t in seen)
    again = noise(ExamplePlan("a", tokens, Exchange("", "", places=True)), 3).tokens
    assert again == seen[3]
    assert noise(ExamplePlan("a", tokens, Exchange("", "7")), 3).tokens.seen is None  # a number that is no place


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Four pictures with a box each."""
    rows = []
    for number in range(4):
        pixels = np.full((64, 64, 3), 255, np.uint8)
        pixels[8:24, 8 * number : 8 * number + 16] = 40
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        corners = [125 * number, 125, 125 * number + 250, 375]
        answer = json.dumps([{"bbox_2d": corners, "label": "dark"}])
        content = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": "Where is it dark?"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def settings(conversations: Path, **train: float) -> SmallModelConfig:
    return SmallModelConfig.model_validate(
        {
            "conversations": conversations,
            "out": conversations.parent / "run",
            "labels": ["dark"],
            "lora": {"targets": "everything", "rank": 2},
            "max_new_tokens": 16,
            "device": "cpu",
            "train": {"steps": 2, "batch": 2, "save_every": 1, **train},
            "replay": {
                "share": 0.4,
                "sources": [{"name": "old", "kind": "pretraining", "held_out": 1, "tile": {"size": 64}}],
            },
        }
    )


def test_a_run_with_everything_ends_in_an_adapter_without_its_aids(conversations: Path) -> None:
    config = settings(conversations, dense=1.0, coordinate_noise=12.0)
    result = finetune(config)
    assert result.adapter is not None
    assert not [name for name in _weights(result.adapter) if "dense" in name]
    assert result.forgetting is not None
    assert set(result.forgetting.before) == {"old"}
    facts = json.loads((config.out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert facts["old"]["examples"] > 0
    again = finetune(config)  # the same settings are the same run
    assert again.steps == result.steps
    with pytest.raises(RecipeError, match="other settings"):
        finetune(settings(conversations, dense=0.5, coordinate_noise=12.0))


def _weights(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return list(file.keys())


def test_the_dense_loss_needs_a_tower_that_learns(conversations: Path) -> None:
    config = settings(conversations, dense=1.0)
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"targets": "language"})})
    with pytest.raises(RecipeError, match=r"lora\.vision"):
        finetune(config)


def test_settings_of_small_models_are_no_settings_of_fine_tuning(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("conversations: rows.jsonl\nout: run\ntrain: {dense: 1.0}\n", encoding="utf-8")
    assert SmallModelConfig.load(path).train.dense == 1.0
    with pytest.raises(RecipeError, match=r"train\.dense"):
        FinetuneConfig.load(path)
