"""Folders from anywhere: damaged and hostile weights are named errors, and quantised ones are known."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from qwenvl.checkpoints import quantized as quantised
from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint
from qwenvl.checkpoints.files import INDEX, fingerprint, read_header
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.errors import CheckpointError

Tiny = Callable[[str], Path]


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    """A Qwen3-VL checkpoint that a test may break."""
    return Path(shutil.copytree(tiny("Qwen3-VL"), tmp_path / "model"))


def header(length: int, text: bytes = b"{}", rest: bytes = b"") -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + text + rest) and None


def one(tensor: Any, rest: bytes = b"") -> Callable[[Path], None]:
    text = json.dumps({"a": tensor}).encode()
    return header(len(text), text, rest)


def index(names: Any, *, keep: bool = False) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        if not keep:
            (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": names}))

    return damage


def config(part: str | None = None, **changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        (content if part is None else content[part]).update(changes)
        path.write_text(json.dumps(content))

    return damage


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "where its header speaks of"),
        (header(10**12), r"a header of 1,000,000,000,000 bytes in a file of 10"),
        (header(2**64 - 1), "a header of 18,"),
        (header(100_000, b"[" * 100_000), "not a safetensors file"),
        (header(2, b"[]"), "no JSON object"),
        (one(7), "a is no tensor"),
        (one(TENSOR | {"shape": [-2]}), "no dtype, shape and data_offsets"),
        (one(TENSOR | {"shape": [True, 2]}), "no dtype, shape and data_offsets"),
        (one(TENSOR | {"data_offsets": [0, 10**15]}), "has 1,000,000,000,000,000 bytes"),
        (one(TENSOR | {"shape": [2**40, 2**40]}), "has 8 bytes"),
        (one(TENSOR), "0 bytes of weights where its header speaks of 8"),
        (index({"a": "../model.safetensors"}), "no safetensors file in this folder"),
        (index({"a": "/etc/passwd"}), "no safetensors file in this folder"),
        (index({"a": "sub/model.safetensors"}), "no safetensors file in this folder"),
        (index({"a": "..\\x.safetensors"}), "no safetensors file in this folder"),
        (index({"a": "pytorch_model.bin"}), "no safetensors file in this folder"),
        (index({"a": 7}), "no weight_map"),
        (index({}), "no weight_map"),
        (index([]), "no weight_map"),
        (index({"a": "model-2.safetensors"}), r"missing model-2\.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"), "which names them"),
        (lambda f: (f / "config.json").write_text('{"a":' * 100_000), "nested too deeply|not readable"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "preprocessor_config.json").write_text("[" * 100_000), "not readable as JSON"),
        (lambda f: (f / "preprocessor_config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "tokenizer.json").write_text('{"model": 7}'), "its tokenizer cannot be loaded"),
        (config("text_config", num_hidden_layers=10**9), "states num_hidden_layers 1000000000, the weights have 4"),
        (config("text_config", hidden_size=10**9), "states hidden_size 1000000000, the weights have 64"),
        (config("text_config", vocab_size=321), "states vocab_size 321, the weights have 320"),
        (config("text_config", intermediate_size=97), "states intermediate_size 97, the weights have 96"),
        (config("text_config", num_attention_heads=0), "num_attention_heads is 0, no count"),
        (config("text_config", hidden_size="64"), "hidden_size is '64', no count"),
        (config("vision_config", depth=7), r"states vision_config\.depth 7, the weights have 4"),
        (config(text_config=[]), "no JSON object"),
        (config(quantization_config={"bits": 4}), "without quant_method"),
        (lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}'), "of 'x/y'"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copy, device="cpu")


def test_two_sets_of_weights_are_not_chosen_from(copy: Path) -> None:
    shutil.copy(copy / "model.safetensors", copy / "model-1.safetensors")
    index({"a": "model-1.safetensors"}, keep=True)(copy)
    with pytest.raises(CheckpointError, match="which one is loaded is left to the library"):
        describe_checkpoint(copy)


@pytest.mark.parametrize(
    "name", ["qwenvl.json", "special_tokens_map.json", "chat_template.json", "added_tokens.json", "modeling.py", INDEX]
)
def test_every_file_that_is_loaded_is_in_the_fingerprint(copy: Path, name: str) -> None:
    before = fingerprint(copy)
    (copy / name).write_text("{}")
    once = fingerprint(copy)
    (copy / name).write_text("[]")
    assert len({before, once, fingerprint(copy)}) == 3


METHODS: list[tuple[dict[str, Any], str, str]] = [
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8, 8 bits", "accelerate"),
    ({"quant_method": "awq", "bits": 4}, "awq, 4 bits", "gptqmodel and accelerate"),
    ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits", "optimum and gptqmodel"),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
        "compressed-tensors, 4 bits",
        "compressed-tensors",
    ),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits", "bitsandbytes and accelerate"),
    ({"load_in_8bit": True}, "bitsandbytes, 8 bits", "bitsandbytes and accelerate"),
]


@pytest.mark.parametrize(("stated", "called", "packages"), METHODS, ids=[row[1] for row in METHODS])
@pytest.mark.parametrize("part", [None, "text_config"])
def test_quantised_folders(
    copy: Path, monkeypatch: pytest.MonkeyPatch, stated: dict[str, Any], called: str, packages: str, part: str | None
) -> None:
    """Type of computing from the config, memory from the bytes, no second quantisation, packages by name."""
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight"))
    columns = weights[name].shape[1]
    weights[name.replace(".weight", ".qweight")] = weights.pop(name)[: columns // 8].int().clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config(part, quantization_config=stated, dtype="float16")(copy)
    description = describe_checkpoint(copy)
    assert str(description.quantised) == called
    assert description.dtype == "float16" or part == "text_config"
    length = struct.unpack("<Q", (copy / "model.safetensors").read_bytes()[:8])[0]
    assert description.weight_bytes == (copy / "model.safetensors").stat().st_size - 8 - length
    assert description.estimate_memory(224, dtype="float32").weights == description.weight_bytes
    with pytest.raises(CheckpointError, match=r"quantised already \(" + called):
        load_checkpoint(copy, device="cpu", quantise="4bit")
    with pytest.raises(CheckpointError, match=r"an adapter is merged into the weights, and these are quantised"):
        load_checkpoint(copy, device="cpu", adapter="somewhere")
    monkeypatch.setattr(quantised, "_is_there", lambda module: False)
    with pytest.raises(CheckpointError, match=f"which needs {packages}: pip install"):
        load_checkpoint(copy, device="cpu")


def test_what_4_bit_saves_of_a_mixture_is_said(tiny: Tiny) -> None:
    description = describe_checkpoint(tiny("Qwen3-VL-MoE"))
    share = description.quantisable * (4 - 0.5625) / (4 * description.parameters)
    with pytest.raises(CheckpointError, match=rf"experts cannot be quantised.*save .* GB \({share:.0%}\)"):
        load_checkpoint(tiny("Qwen3-VL-MoE"), device="cpu", quantise="4bit")
    names = [name for name in read_header(tiny("Qwen3-VL-MoE") / "model.safetensors") if ".experts." in name]
    assert names
