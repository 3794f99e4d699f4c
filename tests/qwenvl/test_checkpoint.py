"""Loading and describing checkpoints: what is accepted, and what each broken one is told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenvl.checkpoints.checkpoint_metadata import describe_checkpoint, fingerprint
from qwenvl.checkpoints.loading import find_checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import TINY_FAMILIES, tiny_checkpoint
from qwenvl.errors import CheckpointError, UnknownFamilyError
from qwenvl.families import get_family
from qwenvl.images.processor import read_processor

Tiny = Callable[[str], Path]


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Path:
    """A Qwen3-VL checkpoint that a test may break."""
    return Path(shutil.copytree(tiny("Qwen3-VL"), tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def test_a_path_that_is_no_utf8_is_refused_in_words(copy: Path, tmp_path: Path) -> None:
    """safetensors and tokenizers cannot open it; a link with a plain name serves."""
    odd = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    try:
        copy.rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(CheckpointError, match=r"no UTF-8.*; rename the folder"):
        load_checkpoint(odd)
    with pytest.raises(CheckpointError, match=r"no UTF-8.*; rename the folder"):
        load_checkpoint(adapter=odd)
    (tmp_path / "plain").symlink_to(odd, target_is_directory=True)
    assert load_checkpoint(tmp_path / "plain").family.name == "Qwen3-VL"


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_loads_every_family(tiny: Tiny, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family))
    assert checkpoint.family is get_family(family)
    assert type(checkpoint.model).__name__ == checkpoint.family.architecture
    assert checkpoint.tokenizer.padding_side == "left"
    assert checkpoint.info.family == family
    assert checkpoint.info.dtype == "float32"
    assert checkpoint.info.device == "cpu"
    assert checkpoint.info.processor["factor"] == checkpoint.family.factor
    assert set(checkpoint.info.versions) >= {"torch", "transformers"}
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.tokenizer.convert_tokens_to_ids("<|im_end|>") in checkpoint.eos_token_ids


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_description_reads_no_weights(tiny: Tiny, family: str) -> None:
    description = describe_checkpoint(tiny(family))
    model = load_checkpoint(tiny(family)).model
    assert description.family.name == family
    assert description.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert description.weight_bytes == 4 * description.parameters
    assert description.dtype == "float32"
    factor = description.family.factor
    assert description.tokens_per_tile(factor * 7) == 49
    assert description.tokens_per_tile(5_000) <= 448**2 / factor**2
    one, four = (description.estimate_memory(224, batch=batch) for batch in (1, 4))
    assert one.weights == four.weights == description.weight_bytes
    assert four.total - one.total == 3 * (one.kv_per_tile + one.activations)


def test_memory_of_a_known_geometry() -> None:
    # Qwen3-VL-4B, 1024 px, 200 + 64 text tokens: 181 MiB of keys and values in bfloat16.
    from qwenvl.checkpoints.checkpoint_metadata import CheckpointDescription
    from qwenvl.images.processor import ProcessorSettings

    family = get_family("Qwen3-VL")
    text = {
        "hidden_size": 2560,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 36,
        "intermediate_size": 9728,
        "vocab_size": 151936,
    }
    description = CheckpointDescription(
        "4B", Path(), family, ProcessorSettings.of_family(family), {"text_config": text}, "bfloat16", 4_400_000_000, 0
    )
    estimate = description.estimate_memory(1024, prompt_tokens=200, new_tokens=64)
    assert estimate.kv_per_tile / 2**20 == pytest.approx(181, abs=1)
    assert estimate.weights == 8_800_000_000


def test_describing_does_not_import_torch(tiny: Tiny) -> None:
    code = (
        "import sys, qwenvl\n"
        f"print(qwenvl.describe_checkpoint({str(tiny('Qwen3-VL'))!r}).family.name)\n"
        f"print(qwenvl.estimate_memory({str(tiny('Qwen3-VL'))!r}, 224).total > 0)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Qwen3-VL", "True"], done.stderr


def test_fingerprint_follows_weights_and_settings(copy: Path) -> None:
    before = fingerprint(copy)
    assert before == fingerprint(copy)
    assert fingerprint(copy, extra="adapter") != before
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[-1] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    after = fingerprint(copy)
    assert after != before
    edit(copy / "preprocessor_config.json", image_mean=[0.4, 0.4, 0.4])
    assert fingerprint(copy) not in (before, after)


def test_recommendations_beside_the_weights(copy: Path) -> None:
    recommended = {"tile_size": 256, "mpp": 0.5, "labels": ["nucleus"]}
    (copy / "qwenvl.json").write_text(json.dumps({"recommended": recommended, "warning": "not for diagnosis"}))
    checkpoint = load_checkpoint(copy)
    assert checkpoint.recommended == recommended
    assert checkpoint.warning == checkpoint.info.warning == "not for diagnosis"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"size": None, "min_pixels": 1024, "max_pixels": 200_704}, "preprocessor_config.json"),
        ({}, "processor_config.json"),
    ],
)
def test_both_spellings_of_the_processor(copy: Path, changes: dict[str, Any], name: str) -> None:
    expected = read_processor(copy)
    edit(copy / "preprocessor_config.json", **changes)
    if name == "processor_config.json":
        content = json.loads((copy / "preprocessor_config.json").read_text())
        (copy / "preprocessor_config.json").unlink()
        (copy / name).write_text(json.dumps({"processor_class": "Qwen3VLProcessor", "image_processor": content}))
    assert read_processor(copy) == expected


def no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def no_limits(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", size=None)


def no_mean(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_mean=None)


def other_filter(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", resample=2)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])


def lost_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.visual.merger.linear_fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def foreign_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.visual.other.weight"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.visual.merger.linear_fc1.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_processor, "no image processor settings"),
        (no_limits, "does not say min_pixels, max_pixels"),
        (no_mean, "does not say image_mean"),
        (other_filter, "resample=2 is not supported"),
        (no_weights, "no weights"),
        (pickled, "only pickled weights.*safetensors"),
        (no_config, r"no config\.json there"),
        (broken_config, "not readable as JSON"),
        (lost_shard, r"missing model-2\.safetensors"),
        (cut_weights, "not a safetensors file"),
        (lost_weight, r"lack model\.visual\.merger"),
        (foreign_weight, r"hold unknown model\.visual\.other"),
        (other_shape, r"merger\.linear_fc1"),
    ],
)
def test_broken_checkpoints(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copy)


def test_unknown_family(copy: Path) -> None:
    edit(copy / "config.json", model_type="llava")
    with pytest.raises(UnknownFamilyError, match="llava"):
        load_checkpoint(copy)


def test_qwen_vl_needs_its_own_code(copy: Path) -> None:
    edit(copy / "config.json", model_type="qwen", visual={})
    with pytest.raises(CheckpointError, match=r"Use Qwen2-VL or later.*trust_remote_code"):
        load_checkpoint(copy)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="'embedded'"):
        find_checkpoint("nothing")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"tried as a folder.*hub: no connection.*Check the spelling"):
        find_checkpoint("owner/model")


@pytest.mark.parametrize(("option", "message"), [({"device": "toaster"}, "toaster"), ({"dtype": "int8"}, "int8")])
def test_bad_options(tiny: Tiny, option: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tiny("Qwen3-VL"), **option)


def test_dtype_is_chosen(tiny: Tiny) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"), dtype="bfloat16")
    assert checkpoint.model.dtype == torch.bfloat16
    assert checkpoint.info.dtype == "bfloat16"


def test_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = tiny_checkpoint("Qwen3-VL", tmp_path)
    edit(folder / "config.json", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_checkpoint(folder).model
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_adapter(tiny: Tiny, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = load_checkpoint(tiny("Qwen3-VL"))
    config = peft.LoraConfig(r=2, target_modules=r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)")
    adapted = peft.get_peft_model(load_checkpoint(tiny("Qwen3-VL")).model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = load_checkpoint(tiny("Qwen3-VL"), adapter=tmp_path / "adapter")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged.model.state_dict()[name], base.model.state_dict()[name])
    assert merged.info.fingerprint != base.info.fingerprint
    assert merged.info.adapter == str(tmp_path / "adapter")

    # Names of no known layout load without any effect in peft; here they are an error.
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    renamed = {key.replace("model.language_model.layers", "decoder.layers"): value for key, value in weights.items()}
    save_file(renamed, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit this model"):
        load_checkpoint(tiny("Qwen3-VL"), adapter=tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="no adapter in safetensors"):
        load_checkpoint(tiny("Qwen3-VL"), adapter=tmp_path)


def test_what_a_checkpoint_was_trained_on_is_said_where_it_is_left(copy: Path) -> None:
    (copy / "qwenvl.json").write_text(json.dumps({"trained": {"side": 256, "mpp": [0.25, 0.5]}}))
    trained = load_checkpoint(copy).info.trained
    assert trained is not None
    for side, mpp in ((256, 0.25), (256, 0.5), (448, 0.25), (224, 0.25), (256, 0.22), (512, None)):
        assert not list(trained.doubts((side, side), mpp)), (side, mpp)
    [coarse] = trained.doubts((448, 448), 0.5)
    for part in ("448 x 448 px at 0.5 um/px", "sees as about 256 px at 0.875 um/px", "256 px at 0.5 um/px."):
        assert part in coarse
    [tiny] = trained.doubts((64, 64), 0.25)
    assert "256 px at 0.0625 um/px" in tiny
    [far] = trained.doubts((256, 256), 1.0)
    assert "sees as" not in far
    assert not list(trained.doubts((288, 256), 0.25))
    [flat] = trained.doubts((320, 192), 0.25)
    assert "trained on squares" in flat
    (copy / "qwenvl.json").unlink()
    assert load_checkpoint(copy).info.trained is None
