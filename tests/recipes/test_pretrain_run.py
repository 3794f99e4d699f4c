"""The training itself, at the smallest size: it learns, and an interruption changes nothing."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwenvl.scoring.agreement import auroc
from recipes.pretrain import run
from recipes.pretrain.config import ModelShape, PhaseConfig, PoolConfig, PretrainConfig
from recipes.pretrain.data import TileSource
from recipes.pretrain.geometry import CELL
from recipes.pretrain.metrics import BoxTally, match
from recipes.pretrain.model import (
    answer_states,
    build_model,
    encode_pictures,
    greedy_answers,
    patchify,
    processor_pixels,
)
from recipes.pretrain.tokenizer import TextCodec
from recipes.pretrain.turns import IGNORED, TurnWriter

MICRO = PretrainConfig(
    threads=1,
    held_out=2,
    bfloat16=False,
    device="cpu",
    model=ModelShape(
        vision_width=48,
        vision_depth=2,
        vision_heads=2,
        vision_mlp=96,
        deepstack=(0,),
        grid=8,
        width=48,
        depth=2,
        heads=2,
        key_heads=1,
        head_dim=24,
        mlp=96,
    ),
    pool=PoolConfig(shard_size=12, shards=1, tile=128, max_nuclei=(8,), coarse_share=0.0, real_share=0.0),
    vision=PhaseConfig(steps=8, batch=4, learning_rate=3e-3, warmup=2, save_every=4),
    language=PhaseConfig(
        steps=8,
        batch=4,
        questions=2,
        learning_rate=3e-3,
        warmup=2,
        save_every=4,
        fresh=2,
        window=6,
        pointer_weight=0.5,
        short_questions=1,
        curriculum=((0, 4),),
    ),
    joint=PhaseConfig(
        steps=4, batch=2, learning_rate=1e-3, vision_learning_rate=1e-4, dense_weight=0.3, save_every=2, own_answers=1
    ),
)


@pytest.fixture(autouse=True)
def _synthetic_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QWENVL_TEST_DATA", str(tmp_path / "absent"))


def start(folder: Path, *phases: str) -> Path:
    """Run phases of the micro recipe in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    dataclasses.replace(MICRO, out=str(folder / "run")).save(path)
    run.main(["--config", str(path), "--phases", *phases])
    return folder / "run"


def losses(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "loss"]


def test_config_survives_yaml(tmp_path: Path) -> None:
    MICRO.save(tmp_path / "a.yaml")
    assert PretrainConfig.load(tmp_path / "a.yaml") == MICRO
    (tmp_path / "b.yaml").write_text("vision:\n  stepz: 3\n")
    with pytest.raises(TypeError, match="stepz"):
        PretrainConfig.load(tmp_path / "b.yaml")


def test_whole_recipe_runs_and_loads_in_transformers(tmp_path: Path) -> None:
    folder = start(tmp_path, "vision", "language", "joint", "export")
    for phase in ("vision", "language"):
        curve = losses(folder / f"{phase}.csv")
        assert len(curve) == 8
        assert np.mean(curve[-2:]) < 0.8 * np.mean(curve[:2])
    assert (folder / "curves.png").stat().st_size > 1000
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(folder / "checkpoint", dtype=torch.float32)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()


def test_interrupted_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start(tmp_path / "whole", "vision", "language")
    batches = TileSource.batches

    def broken(self: TileSource, phase: int, first: int, last: int, *rest: Any) -> Iterator:
        for step, tiles in enumerate(batches(self, phase, first, last, *rest), first):
            if step == {1: 6, 2: 9}[phase] and first == 0:
                raise KeyboardInterrupt
            yield tiles

    monkeypatch.setattr(TileSource, "batches", broken)
    for _ in range(2):  # each of the two phases is cut off once, two steps after its last save
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", "vision", "language")
    cut = start(tmp_path / "cut", "vision", "language")
    for phase in ("vision", "language"):
        assert losses(cut / f"{phase}.csv") == losses(whole / f"{phase}.csv")
        a = torch.load(whole / f"{phase}.pt", weights_only=True)["modules"]["visual"]
        b = torch.load(cut / f"{phase}.pt", weights_only=True)["modules"]["visual"]
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_batched_passes_equal_those_of_transformers(tmp_path: Path) -> None:
    from recipes.pretrain.tasks import corpus
    from recipes.pretrain.tokenizer import build_tokenizer

    codec = TextCodec(build_tokenizer(corpus(1, count=200)))
    model = build_model(MICRO.model, codec).eval()
    pictures = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8)
    cells = (96 // CELL, 128 // CELL)
    patches = patchify(pictures)
    writer = TurnWriter(codec, cells)
    ids = torch.tensor([writer.prompt("Locate every nucleus.")] * 2)
    with torch.no_grad():
        merged, deepstack = encode_pictures(model.model.visual, patches, (6, 8))
        states = answer_states(model, ids, cells, merged, deepstack, writer.first_cell)
        reference = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == codec.special["<|image_pad|>"]).int(),
            pixel_values=processor_pixels(patches.flatten(0, 1)),
            image_grid_thw=torch.tensor([[1, 6, 8]] * 2),
        ).logits
    torch.testing.assert_close(model.lm_head(states), reference, rtol=1e-4, atol=1e-4)


def test_answers_of_a_model_under_training_are_those_of_transformers() -> None:
    """Prompts of several lengths in one batch, answers that end at different places."""
    from recipes.pretrain.tasks import corpus
    from recipes.pretrain.tokenizer import build_tokenizer

    codec = TextCodec(build_tokenizer(corpus(1, count=200)))
    torch.manual_seed(4)
    model = build_model(MICRO.model, codec).eval()
    pictures = torch.randint(0, 256, (5, 128, 128, 3), dtype=torch.uint8)
    writer, patches = TurnWriter(codec, (4, 4)), patchify(pictures)
    texts = ("Locate.", "Locate every nucleus.", "Count", "Is there a tumor in this image?", "Point at nuclei.")
    prompts, longest, pad = [writer.prompt(text) for text in texts], 24, writer.end
    free = []
    with torch.no_grad():
        merged, deepstack = encode_pictures(model.model.visual, patches, (8, 8))
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=torch.eq(ids, codec.special["<|image_pad|>"]).int(),
                pixel_values=processor_pixels(patches[row : row + 1].flatten(0, 1)),
                image_grid_thw=torch.tensor([[1, 8, 8]]),
                max_new_tokens=longest,
                do_sample=False,
                eos_token_id=-1,
                pad_token_id=pad,
            )
            free.append(out[0, len(prompt) :].tolist())
    ends = {}
    for end in {token for answer in free for token in answer[2:]}:
        cut = [answer[: answer.index(end)] if end in answer else answer for answer in free]
        ends[len({len(answer) for answer in cut})] = end, cut
    end, expected = ends[max(ends)]
    assert max(ends) > 1, "some end sooner than others"
    found = greedy_answers(model, prompts, (4, 4), merged, deepstack, writer.first_cell, end, longest)
    assert found == expected


def test_only_answers_are_targets() -> None:
    from recipes.pretrain.question import Question
    from recipes.pretrain.tasks import corpus
    from recipes.pretrain.tokenizer import build_tokenizer

    codec = TextCodec(build_tokenizer(corpus(1, count=200)))
    writer = TurnWriter(codec, (2, 2))
    questions = [
        Question("detect", "Find 5 nuclei.", '[{"bbox_2d": [1, 22, 333, 1000], "label": "nucleus"}]'),
        Question("count", "How many?", "17"),
    ]
    batch = writer.batch(questions, [0, 1])
    for row, question in enumerate(questions):
        asked = batch.targets[row] != IGNORED
        assert codec.decode(batch.targets[row][asked].tolist()) == question.answer
        assert batch.targets[row][asked][-1] == codec.special["<|im_end|>"]
        assert torch.equal(batch.targets[row][asked], batch.ids[row].roll(-1)[asked])
    assert batch.places[0][batch.places[0] != IGNORED].tolist() == [1, 22, 333, 1000]
    assert (batch.places[1] == IGNORED).all()


def test_matching_and_auroc() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    found = np.array([[20, 20, 30, 31], [0, 0, 10, 4], [50, 50, 60, 60]], float)
    assert match(found, truth) == [(0, 1)]
    tally = BoxTally()
    tally.add(found, truth, ["a", "b", "c"], ["x", "a"])
    assert (tally.f1, tally.class_accuracy) == (pytest.approx(0.4), 1.0)
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
