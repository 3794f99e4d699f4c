"""Quantised language models: what is quantised, what is not, and that a model which is not as asked for is refused."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from subjects import DETECT, SCORE

from qwenvl.checkpoints import quantize as quantise
from qwenvl.checkpoints.loading import describe_checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import tiny_checkpoint
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import CheckpointError

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]


@pytest.fixture(scope="module", autouse=True)
def bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra 'quantisation' is not installed")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL whose widths are multiples of 64, as those of real models are; some processors need that."""
    import transformers

    folder = tiny_checkpoint("Qwen3-VL", tmp_path_factory.mktemp("wide"))
    config: Any = transformers.Qwen3VLConfig.from_pretrained(folder)
    config.text_config.intermediate_size = 128
    torch.manual_seed(0)
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    return folder


def kinds(model: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            part = "tower" if "visual" in name else "output" if name == "lm_head" else "blocks"
            found.setdefault(part, set()).add(f"{type(module).__name__} {module.weight.dtype}")
    return found


@pytest.mark.parametrize(("mode", "layer"), [("8bit", "Linear8bitLt torch.int8"), ("4bit", "Linear4bit torch.uint8")])
def test_the_blocks_are_quantised_and_nothing_else(wide: Path, pictures: Pictures, mode: str, layer: str) -> None:
    exact = LocalEngine.load(wide, device="cpu", dtype="bfloat16")
    engine = LocalEngine.load(wide, device="cpu", quantise=mode)
    model = engine.checkpoint.model
    plain = "Linear torch.bfloat16"
    assert kinds(model) == {"blocks": {layer}, "tower": {plain}, "output": {plain}}
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.model.visual.parameters())
    assert engine.info.dtype == "bfloat16"
    assert engine.info.processor["quantise"] == mode
    assert engine.info.fingerprint != exact.info.fingerprint
    for ours, theirs in zip(engine.answer(pictures, SCORE), exact.answer(pictures, SCORE), strict=True):
        assert ours.scores["yes"] == pytest.approx(theirs.scores["yes"], abs=0.15)
        assert ours.scores["yes"] != theirs.scores["yes"]
    # Random models write boxes without an area; that they write by the grammar shows that decoding works.
    assert all(answer.raw.startswith("[") for answer in engine.answer(pictures, DETECT))
    description = engine.checkpoint.description
    estimate = description.estimate_memory(224, dtype="bfloat16", quantise=mode)
    assert estimate.weights == pytest.approx(model.get_memory_footprint(), rel=0.06)
    assert estimate.weights < 0.85 * description.estimate_memory(224, dtype="bfloat16").weights


def test_a_pattern_that_misses_the_tower_is_noticed(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'visual' matches no module of Qwen3-VL in transformers 5, where the tower is 'model.visual'."""
    monkeypatch.setattr(quantise, "_KEPT", ("visual", "lm_head"))
    with pytest.raises(CheckpointError, match=r"model\.visual\.\S+ is quantised"):
        load_checkpoint(wide, device="cpu", quantise="8bit")


def test_blocks_that_stay_as_they_are_are_noticed(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "_KEPT", ("model.visual", "lm_head", "model.language_model.layers.2"))
    with pytest.raises(CheckpointError, match=r"layers\.2\.\S+ is no Linear8bitLt but Linear"):
        load_checkpoint(wide, device="cpu", quantise="8bit")


def test_what_is_refused(tiny: Tiny, wide: Path) -> None:
    with pytest.raises(CheckpointError, match="experts cannot be quantised"):
        load_checkpoint(tiny("Qwen3-VL-MoE"), device="cpu", quantise="8bit")
    with pytest.raises(CheckpointError, match="none of 4bit, 8bit"):
        load_checkpoint(wide, device="cpu", quantise="2bit")
    with pytest.raises(CheckpointError, match="an adapter"):
        load_checkpoint(wide, device="cpu", quantise="8bit", adapter="somewhere")


def _dequantised(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What any processor can do: the weights are made numbers again first."""
    from bitsandbytes.functional import dequantize_4bit

    return torch.nn.functional.linear(x, dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(x.dtype))


def _multiples_of_64(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A processor whose kernel takes widths in multiples of 64 only."""
    if x.shape[-1] % 64:
        raise RuntimeError(f"shape '[64, {x.shape[-1] // 64}]' is invalid")
    return _dequantised(layer, x)


def _two_rows(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A processor whose kernel for one row, that of decoding, is missing."""
    if x.shape[-2] == 1:
        raise NotImplementedError("gemv_4bit")
    return _dequantised(layer, x)


def _asserts(layer: Any, x: torch.Tensor) -> torch.Tensor:
    raise AssertionError("N must be divisible by block_n")


def _nothing_finite(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return _dequantised(layer, x) * float("nan")


@pytest.mark.parametrize(
    ("processor", "narrow_one", "wide_one"),
    [
        (_dequantised, "", ""),
        (_multiples_of_64, r"cannot compute this model on cpu: shape .* is invalid", ""),
        (_two_rows, "on cpu: gemv_4bit", "on cpu: gemv_4bit"),
        (_asserts, "on cpu: N must be divisible", "on cpu: N must be divisible"),
        (_nothing_finite, "no finite numbers of this model on cpu", "no finite numbers of this model on cpu"),
    ],
)
def test_what_the_processor_cannot_compute_is_found_by_trying(
    tiny: Tiny,
    wide: Path,
    monkeypatch: pytest.MonkeyPatch,
    processor: Callable[[Any, torch.Tensor], torch.Tensor],
    narrow_one: str,
    wide_one: str,
) -> None:
    """Each processor is a planted one: what the real one under the test can do makes no difference."""
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", processor)
    for folder, refusal in ((tiny("Qwen3-VL"), narrow_one), (wide, wide_one)):  # inner widths of 96 and of 128
        with pytest.raises(CheckpointError, match=refusal) if refusal else nullcontext():
            load_checkpoint(folder, device="cpu", quantise="4bit")


def test_quantisable_weights_are_counted_from_the_headers(wide: Path) -> None:
    config = json.loads((wide / "config.json").read_text())["text_config"]
    width, inner = config["hidden_size"], config["intermediate_size"]
    query, key = config["num_attention_heads"] * 16, config["num_key_value_heads"] * 16
    per_layer = 2 * width * query + 2 * width * key + 3 * width * inner
    assert describe_checkpoint(wide).quantisable == 4 * per_layer


def test_a_folder_that_bitsandbytes_wrote(wide: Path, pictures: Pictures, tmp_path: Path) -> None:
    import shutil

    import transformers

    folder = Path(shutil.copytree(wide, tmp_path / "four"))
    (folder / "model.safetensors").unlink()
    config = quantise.quantisation_config(quantise.Quantisation.FOUR, torch.bfloat16)
    transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        wide, quantization_config=config, dtype=torch.bfloat16, device_map={"": "cpu"}
    ).save_pretrained(folder)
    engine = LocalEngine.load(folder, device="cpu")
    description = engine.checkpoint.description
    assert engine.info.dtype == description.dtype == "bfloat16"
    assert engine.info.processor["quantised"] == "bitsandbytes, 4 bits"
    footprint = engine.checkpoint.model.get_memory_footprint()
    assert description.estimate_memory(224).weights == pytest.approx(footprint, rel=0.06)
    same = LocalEngine.load(wide, device="cpu", quantise="4bit")
    ours, theirs = engine.answer(pictures, SCORE)[0], same.answer(pictures, SCORE)[0]
    assert ours.scores["yes"] == pytest.approx(theirs.scores["yes"], abs=0.01)
