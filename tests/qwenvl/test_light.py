"""The fast paths of small models on a CPU, against transformers' own computation."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.decoding import vision
from qwenvl.decoding.batching import TokenBatch, build_batch, encode_prompt, render_request
from qwenvl.decoding.cpu_decoder import LightLanguage, LightSteps
from qwenvl.decoding.decode import TransformersSteps, prefill
from qwenvl.decoding.onednn_linear import pack_linears
from qwenvl.engines.local import LocalEngine
from qwenvl.images.preprocess import preprocess
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
LIGHT = ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-Thinking"]


def batch_of(checkpoint: Checkpoint, pictures: Pictures) -> TokenBatch:
    request = Request(task=Task.DETECT, labels=("nucleus",))
    prompt = encode_prompt(checkpoint, render_request(checkpoint, request, thinking=False))
    return build_batch(checkpoint, [prompt] * len(pictures), preprocess(pictures, checkpoint.processor))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_which_models_take_the_light_step(tiny: Tiny, family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    assert engine.info.processor["products"] == "oneDNN"
    assert (engine.info.processor["decoding"] == "light") == (family in LIGHT)
    assert engine.info.processor["constrained"] is True


@pytest.mark.parametrize("family", LIGHT)
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_light_steps_equal_transformers(
    tiny: Tiny, pictures: Pictures, family: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of every step, over a cache that grows and rows that leave."""
    monkeypatch.setattr("qwenvl.decoding.cpu_decoder._NEW", 5)
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    model = checkpoint.model
    batch = batch_of(checkpoint, [*pictures[:2], pictures[2 if padded else 0], pictures[1]])
    assert batch.padded == padded
    state, same = prefill(model, batch), prefill(model, batch)
    assert LightLanguage.unfit(model) is None
    ours = LightSteps(LightLanguage(model), state.cache, state.attention_mask, state.next_position)
    theirs = TransformersSteps(model, same)
    tokens = torch.tensor([7, 30, 41, 90])
    for step in range(12):
        expected = theirs.read(tokens)
        got = ours.read(tokens)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        tokens = expected.argmax(-1)
        if step in (3, 8):
            kept = torch.tensor([0, 2, 3] if step == 3 else [1, 2])
            ours.keep(kept)
            theirs.keep(kept)
            tokens = tokens[kept]


@pytest.mark.parametrize("family", TINY_FAMILIES)
@torch.inference_mode()
def test_packed_products_equal_torch(tiny: Tiny, pictures: Pictures, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    batch = batch_of(checkpoint, pictures)
    names = list(checkpoint.model.state_dict())
    expected = prefill(checkpoint.model, batch).logits
    assert pack_linears(checkpoint.model) is None
    assert pack_linears(checkpoint.model) is None
    assert list(checkpoint.model.state_dict()) == names
    torch.testing.assert_close(prefill(checkpoint.model, batch).logits, expected, rtol=1e-4, atol=1e-4)


def test_changed_weights_are_not_computed_with_old_ones(tiny: Tiny) -> None:
    model = load_checkpoint(tiny("Qwen3-VL"), device="cpu").model
    pack_linears(model)
    layer = model.model.language_model.layers[0].mlp.up_proj
    x = torch.rand(3, layer.in_features)
    with torch.inference_mode():
        before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), 2 * before)
    layer.weight.requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    model.double()
    with torch.inference_mode():
        assert layer(x.double()).dtype == torch.float64
    assert "float32" in str(pack_linears(model))


@pytest.mark.parametrize("family", TINY_FAMILIES)
@torch.inference_mode()
def test_pictures_in_groups(tiny: Tiny, pictures: Pictures, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    batch = batch_of(checkpoint, pictures)
    expected = prefill(checkpoint.model, batch).logits
    for most in (1, 500):
        monkeypatch.setattr(vision, "_AT_ONCE", most)
        torch.testing.assert_close(prefill(checkpoint.model, batch).logits, expected, rtol=1e-4, atol=1e-4)
