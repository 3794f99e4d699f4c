"""The checkpoint that comes with the package: loads plainly, answers, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.pretrain.evaluate import generate, read_boxes
from recipes.pretrain.metrics import BoxTally
from recipes.pretrain.object_tasks import detect_question, every_nucleus
from recipes.pretrain.tiles import LabelledTile, from_field
from recipes.pretrain.tokenizer import TextCodec
from wsi.synthetic import sample_field

FOLDER = Path(__file__).resolve().parents[2] / "qwenvl" / "checkpoints" / "embedded"

pytestmark = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason=f"no checkpoint in {FOLDER}")


@pytest.fixture(scope="module")
def tiles() -> list[LabelledTile]:
    return [from_field(sample_field(seed, max_nuclei=8)) for seed in range(400_000, 400_006)]


@pytest.fixture(scope="module")
def answers(tiles: list[LabelledTile]) -> list[str]:
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)
    question = detect_question(tiles[0], every_nucleus())
    return generate(model, TextCodec.load(FOLDER), tiles, [question.prompt] * len(tiles), torch.device("cpu"), 200)


def test_files_are_small_and_say_not_for_diagnosis() -> None:
    assert all(path.stat().st_size <= 16 * 2**20 for path in FOLDER.iterdir())
    facts = json.loads((FOLDER / "qwenvl.json").read_text())
    assert "not for diagnosis" in facts["warning"]
    assert {"tile_size", "mpp", "overlap", "max_new_tokens", "labels"} <= set(facts["recommended"])
    card = (FOLDER / "MODEL_CARD.md").read_text()
    assert "not for diagnosis" in card.lower()


def test_answers_of_plain_transformers_are_boxes_on_nuclei(tiles: list[LabelledTile], answers: list[str]) -> None:
    """Decoded freely, without a grammar: readable, named as asked, and where the nuclei are."""
    tally = BoxTally()
    for tile, text in zip(tiles, answers, strict=True):
        read = read_boxes(text, tile.image.shape[0])
        assert read is not None, text
        assert set(read[1]) <= {"nucleus"}
        tally.add(read[0], tile.boxes)
    assert tally.f1 >= 0.7


def test_engine_answers_the_same_words(tiles: list[LabelledTile], answers: list[str]) -> None:
    from qwenvl.checkpoints.loading import load_checkpoint
    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Generation, Request, Task

    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=256, generation=Generation(max_new_tokens=200))
    engine = LocalEngine(load_checkpoint(FOLDER, device="cpu"), constrained=False)
    found = engine.answer([tile.image for tile in tiles], request)
    assert [answer.raw.removesuffix("<|im_end|>") for answer in found] == answers


def test_engine_answers_the_same_under_the_grammar(tiles: list[LabelledTile], answers: list[str]) -> None:
    """The default engine's boxes are those of plain transformers."""
    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Generation, Request, Task

    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=256, generation=Generation(max_new_tokens=200))
    found = LocalEngine.load(FOLDER, device="cpu").answer([tile.image for tile in tiles], request)
    for answer, tile, text in zip(found, tiles, answers, strict=True):
        read = read_boxes(text, tile.image.shape[0])
        assert read is not None
        boxes = np.array([item.box for item in answer.objects]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, read[0], atol=0.51)


def test_under_the_grammar_every_answer_is_readable(tiles: list[LabelledTile]) -> None:
    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Request, Task

    tally = BoxTally()
    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=256)
    found = LocalEngine.load(FOLDER, device="cpu").answer([tile.image for tile in tiles], request)
    for tile, answer in zip(tiles, found, strict=True):
        assert answer.status.complete, answer.raw
        assert {item.label for item in answer.objects} <= {"nucleus"}
        boxes = np.array([item.box for item in answer.objects], np.float32).reshape(-1, 4)
        tally.add(boxes, tile.boxes)
    assert tally.f1 >= 0.7


def test_tokenizer_loads_with_auto_class() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = 'Locate 17 of [{"bbox_2d": [1, 2, 3, 4], "label": "tumor"}]'
    assert tokenizer(text, add_special_tokens=False).input_ids == TextCodec.load(FOLDER).encode(text)
