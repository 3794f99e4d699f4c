"""Adapters of other makers: the base comes back bit for bit, half an adapter is refused by name, old names are read.

The full matrix of families and kinds is in benchmarks/adapters.py.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from qwenvl.checkpoints.adapters.adapter import AdapterSwitch, base_digest
from qwenvl.checkpoints.loading import Checkpoint, load_checkpoint
from qwenvl.checkpoints.testing import language_model_alone, tiny_checkpoint
from qwenvl.errors import CheckpointError

peft = pytest.importorskip("peft")

Tiny = Callable[[str], Path]
ATTENTION = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"


def words(model: Any) -> torch.Tensor:
    """Logits about words alone."""
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=torch.tensor([[5, 20, 33, 77, 40]])).logits
    return result.clone()


def write(base: Path, folder: Path, config: Any) -> torch.Tensor:
    """Write an adapter with random weights; the logits that peft gives with it."""
    return write_on(load_checkpoint(base, device="cpu").model, folder, config)


def write_on(model: Any, folder: Path, config: Any) -> torch.Tensor:
    """Write an adapter with random weights of a loaded model; the logits that peft gives with it."""
    torch.manual_seed(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # peft's, of tied and saved embeddings
        adapted = peft.get_peft_model(model, config).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
        adapted.save_pretrained(folder)
    return words(adapted)


def assert_same(own: torch.Tensor, theirs: torch.Tensor) -> None:
    assert float((own - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "target_modules": ATTENTION} | settings)


CONFIGS: dict[str, Callable[[], Any]] = {
    "bias": lambda: lora(bias="all"),
    "saved": lambda: lora(modules_to_save=["lm_head", "merger"], use_dora=True),
    "tokens": lambda: lora(trainable_token_indices=[5, 20]),
    "embeddings": lambda: lora(target_modules=["embed_tokens", "o_proj"]),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=ATTENTION),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.fixture
def checkpoint(tiny: Tiny) -> Checkpoint:
    """A Qwen2.5-VL of this test's own."""
    return load_checkpoint(tiny("Qwen2.5-VL"), device="cpu")


def test_any_kind_is_peft_s_and_leaves_the_base_as_it_was(tiny: Tiny, checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = tiny("Qwen2.5-VL")
    expected = {name: write(base, tmp_path / name, make()) for name, make in CONFIGS.items()}
    digest, plain = base_digest(checkpoint.model), words(checkpoint.model)
    switch = AdapterSwitch(checkpoint)
    for name in (*CONFIGS, "tokens", "bias"):  # the last two without the base in between
        assert_same(words(switch.use(tmp_path / name).model), expected[name])
        assert base_digest(checkpoint.model) != digest
        if name in CONFIGS and name != "norms":
            switch.use(None)
            assert base_digest(checkpoint.model) == digest, name
            assert torch.equal(words(checkpoint.model), plain)
    switch.use(None)
    assert base_digest(checkpoint.model) == digest
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())


def test_an_adapted_embedding_does_not_change_the_output_it_is_tied_to(tmp_path: Path) -> None:
    base = tiny_checkpoint("Qwen3-VL", tmp_path / "base")
    content = json.loads((base / "config.json").read_text())
    content["tie_word_embeddings"] = content["text_config"]["tie_word_embeddings"] = True
    (base / "config.json").write_text(json.dumps(content))
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load_checkpoint(base, device="cpu")
    model = checkpoint.model
    digest = base_digest(model)
    switch = AdapterSwitch(checkpoint)
    for number, targets in enumerate((["embed_tokens"], ["lm_head"])):
        expected = write(base, tmp_path / str(number), lora(target_modules=targets))
        assert_same(words(switch.use(tmp_path / str(number)).model), expected)
        assert model.lm_head.weight is not model.get_input_embeddings().weight
        switch.use(None)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert model.config.tie_word_embeddings
        assert base_digest(model) == digest


def beside(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"weights")


def without(part: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "adapter_model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, folder / "adapter_model.safetensors")

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "adapter_model.safetensors")
        change(weights)
        save_file(weights, folder / "adapter_model.safetensors")

    return damage


def settings(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def first(weights: dict[str, torch.Tensor]) -> str:
    return sorted(name for name in weights if "lora_A" in name)[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (beside("non_lora_state_dict.bin"), r"non_lora_state_dict\.bin contains weights.*half of what was trained"),
        (beside("non_lora_trainables.bin"), r"non_lora_trainables\.bin"),
        (beside("vit.safetensors"), r"vit\.safetensors"),
        (beside("new_embeddings.safetensors"), r"new_embeddings\.safetensors"),
        (without("lm_head"), r"module lm_head was trained whole.*has no weights of it"),
        (without("layers.2."), "lacks 7 of .* such as .*layers.2"),
        (without(".bias"), r"lacks .*\.bias"),
        (settings(modules_to_save=["lm_head", "score"]), "module score .*this model has no such module"),
        (settings(target_modules=["nothing"]), "cannot be put on this model"),
        (settings(r=3), "do not fit this model"),
        (settings(peft_type="NEWER"), "peft cannot read it"),
        (settings(peft_type="PROMPT_TUNING", num_virtual_tokens=3), "peft cannot read it|cannot be merged"),
        (settings(layer_replication=[[0, 2], [1, 4]]), "layer_replication is not supported"),
        (tensors(lambda w: w.update({"base_model.model.model.other.lora_A.weight": torch.ones(2, 2)})), "other"),
        (tensors(lambda w: w.update({first(w): w[first(w)] * float("nan")})), "not finite"),
        (tensors(lambda w: w.update({first(w): torch.ones(0, 2)})), "is empty.*ZeRO-3"),
        (tensors(lambda w: w.clear()), "contains no weights"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 40), "not a safetensors file"),
        (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), "nested too deeply|not readable"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_half_an_adapter_is_refused_by_name(
    whole: Path, shared_base: tuple[Checkpoint, str], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "adapter"))
    damage(folder)
    checkpoint, digest = shared_base
    with pytest.raises(CheckpointError, match=message):
        AdapterSwitch(checkpoint).use(folder)
    assert base_digest(checkpoint.model) == digest


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with biases and a saved module."""
    folder: Path = tmp_path_factory.mktemp("whole")
    write(tiny("Qwen2.5-VL"), folder, lora(bias="all", modules_to_save=["lm_head"]))
    return folder


@pytest.fixture(scope="module")
def shared_base(tiny: Tiny) -> tuple[Checkpoint, str]:
    checkpoint = load_checkpoint(tiny("Qwen2.5-VL"), device="cpu")
    return checkpoint, base_digest(checkpoint.model)


def test_state_of_a_trainer_is_no_half(tiny: Tiny, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write(tiny("Qwen2.5-VL"), tmp_path, lora())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "adapter_model.bin"):
        (tmp_path / name).write_bytes(b"state")
    assert AdapterSwitch(checkpoint).use(tmp_path).info.adapter == str(tmp_path)


@pytest.mark.parametrize(
    ("family", "config", "older"),
    [
        ("Qwen2-VL", {"target_modules": ["q_proj", "qkv"]}, {}),
        (
            "Qwen2.5-VL",
            {"target_modules": r".*(layers.*q_proj|blocks.*qkv)"},
            {"target_modules": r"(model|visual)\..*(q_proj|qkv)"},
        ),
        (
            "Qwen2.5-VL",
            {"target_modules": ["q_proj"], "alpha_pattern": {"model.language_model.layers.1.self_attn.q_proj": 32}},
            {"alpha_pattern": {"model.layers.1.self_attn.q_proj": 32}},
        ),
        (
            "Qwen2-VL",
            {"target_modules": ["o_proj"], "modules_to_save": ["model.visual.merger"], "bias": "all"},
            {"modules_to_save": ["visual.merger"]},
        ),
    ],
)
def test_names_from_before_transformers_4_52(
    tiny: Tiny, tmp_path: Path, family: str, config: dict[str, Any], older: dict[str, Any]
) -> None:
    base = tiny(family)
    expected = write(base, tmp_path, lora(**config))
    path = tmp_path / "adapter_model.safetensors"
    renamed = {
        name.replace("model.language_model.", "model.").replace("model.model.visual.", "model.visual."): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(".model.layers." in name and "language_model" not in name for name in renamed)
    save_file(renamed, path)
    settings(**older)(tmp_path)
    checkpoint = load_checkpoint(base, device="cpu")
    digest = base_digest(checkpoint.model)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    switch = AdapterSwitch(checkpoint)
    assert_same(words(switch.use(tmp_path).model), expected)
    if "qkv" in str(config):
        name = "model.visual.blocks.0.attn.qkv.weight"
        assert not torch.equal(checkpoint.model.state_dict()[name], before[name])
    switch.use(None)
    assert base_digest(checkpoint.model) == digest


def test_a_base_that_does_not_come_back_hides_no_error_and_is_given_to_nobody(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny("Qwen3-VL")
    write(base, tmp_path / "adapter", lora())
    switch = AdapterSwitch(load_checkpoint(base, device="cpu"))
    with monkeypatch.context() as patch:

        def misfit(*_: Any, **__: Any) -> None:
            patch.setattr("qwenvl.checkpoints.adapters.base.base_digest", lambda *_, **__: "another")
            raise RuntimeError("its weights do not fit, says peft")

        patch.setattr(peft, "set_peft_model_state_dict", misfit)
        with pytest.raises(CheckpointError, match="its weights do not fit") as caught:
            switch.use(tmp_path / "adapter")
        assert "load the model again" in caught.value.__notes__[0]
        with pytest.raises(CheckpointError, match="load the model again"):
            switch.use(None)


@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5"])
def test_an_adapter_of_the_language_model_by_itself(tiny: Tiny, tmp_path: Path, family: str) -> None:
    checkpoint = load_checkpoint(tiny(family), device="cpu")
    alone = language_model_alone(checkpoint)
    assert_same(words(alone), words(checkpoint.model))
    config = lora(target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head"])
    expected = write_on(alone, tmp_path, config)
    digest = base_digest(checkpoint.model)
    settings(base_model_name_or_path="Qwen/Qwen3-4B")(tmp_path)
    switch = AdapterSwitch(checkpoint)
    adapted = switch.use(tmp_path)
    assert_same(words(adapted.model), expected)
    assert "language model by itself" in str(adapted.info.warning)
    switch.use(None)
    assert base_digest(checkpoint.model) == digest


@pytest.mark.parametrize(
    ("older", "noted"),
    [
        ("base_model.model.language_model.model.", True),
        ("base_model.model.model.language_model.model.", True),
        ("base_model.model.language_model.", True),
        ("base_model.model.", True),
        ("base_model.model.model.", True),
        ("base_model.model.model.language_model.", False),
    ],
)
def test_names_of_the_language_model_in_several_layouts(tiny: Tiny, tmp_path: Path, older: str, noted: bool) -> None:
    base = tiny("Qwen3-VL")
    expected = write(base, tmp_path, lora(target_modules=["q_proj", "down_proj"], bias="lora_only"))
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({k.replace("base_model.model.model.language_model.", older): v for k, v in weights.items()}, path)
    settings(base_model_name_or_path="folder", target_modules=["q_proj", "down_proj"])(tmp_path)
    checkpoint = load_checkpoint(base, device="cpu")
    adapted = AdapterSwitch(checkpoint).use(tmp_path)
    assert_same(words(adapted.model), expected)
    assert ("by itself (folder)" in str(adapted.info.warning)) == noted
    if noted:
        settings(base_model_name_or_path="Qwen/Qwen3-VL-2B")(tmp_path)
        again = AdapterSwitch(load_checkpoint(base, device="cpu")).use(tmp_path)
        assert "by itself" not in str(again.info.warning)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2}, r"has no weights of 2 of 4 modules .* such as .*layers\.2"),
        ({"num_hidden_layers": 6}, r"do not fit this model, such as .*layers\.4"),
        ({"hidden_size": 32}, r"(?s)do not fit this model.*size mismatch"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2}, r"(?s)do not fit this model.*size mismatch"),
    ],
)
def test_an_adapter_of_another_language_model_is_refused(
    tiny: Tiny, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    checkpoint = load_checkpoint(tiny("Qwen3-VL"), device="cpu")
    content = {**checkpoint.model.config.text_config.to_dict(), **changes}
    config = transformers.Qwen3Config(**{k: v for k, v in content.items() if k not in ("model_type", "layer_types")})
    write_on(transformers.Qwen3ForCausalLM(config).eval(), tmp_path, lora(target_modules=["q_proj"]))
    digest = base_digest(checkpoint.model)
    with pytest.raises(CheckpointError, match=message):
        AdapterSwitch(checkpoint).use(tmp_path)
    assert base_digest(checkpoint.model) == digest
