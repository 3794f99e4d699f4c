"""Tiny random models of every family, for tests of code that asks models. Nothing is downloaded.

The models have every part of their family's architecture (windows, DeepStack, multimodal rotary positions, experts,
linear attention) at a size of some hundred kilobytes, and a byte-level tokenizer whose chat template has the
family's form. Their answers are noise, the same noise on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenvl.errors import UnknownFamilyError
from qwenvl.families import ModelFamily, Thinking, get_family

if TYPE_CHECKING:
    from qwenvl.checkpoints.loading import Checkpoint

TINY_FAMILIES = (
    "Qwen2-VL",
    "Qwen2.5-VL",
    "Qwen3-VL",
    "Qwen3-VL-Thinking",
    "Qwen3-VL-MoE",
    "Qwen3-VL-MoE-Thinking",
    "Qwen3.5",
    "Qwen3.5-MoE",
)
"""Families that `tiny_checkpoint` can build: all whose model class is part of transformers."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_MERGES = [("y", "e"), ("ye", "s"), ("Y", "e"), ("Ye", "s"), ("n", "o"), ("N", "o"), ("Ġ", "yes"), ("Ġ", "no")]
_HIDDEN = 64
_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
)
_THINKING = {
    Thinking.NEVER: "{% endif %}",
    Thinking.ALWAYS: "<think>\n{% endif %}",
    Thinking.SWITCHABLE: (
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
        "{% else %}<think>\n{% endif %}{% endif %}"
    ),
}


def tiny_checkpoint(family_name: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Write a tiny random checkpoint of a family.

    Parameters
    ----------
    family_name : str
        One of `TINY_FAMILIES`.
    folder : str or Path
        Written to; made where it does not exist.
    seed : int
        Of the random weights.

    Returns
    -------
    Path
        `folder`, which `qwenvl.load_checkpoint` takes.

    Raises
    ------
    UnknownFamilyError
        The family is unknown, or its model class is not part of transformers.
    """
    import torch
    import transformers

    family = get_family(family_name)
    if family.remote_code:
        raise UnknownFamilyError(f"{family.name} is remote code; tiny models exist of {', '.join(TINY_FAMILIES)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(folder, family)
    architecture = getattr(transformers, family.architecture)
    config = architecture.config_class(**_config(family, ids))
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model = architecture(config).eval()
        with torch.no_grad():
            # At their initial size the pictures would hardly move the logits, and a test would see no mistake.
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "embed" not in name:
                    parameter.normal_(0.0, 2.0 / parameter.shape[-1] ** 0.5)
    finally:
        torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": family.patch_size,
        "merge_size": family.merge_size,
        "temporal_patch_size": family.temporal_patch_size,
        "size": {"shortest_edge": family.factor**2, "longest_edge": 448**2},
        "image_mean": list(family.image_mean),
        "image_std": list(family.image_std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return folder


_TEXT_CLASSES = {
    "qwen2_vl_text": "Qwen2ForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen3_vl_text": "Qwen3ForCausalLM",
    "qwen3_vl_moe_text": "Qwen3MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
}


def language_model_alone(checkpoint: Checkpoint) -> object:
    """The language model of a loaded checkpoint in the text class of transformers, with copies of its weights."""
    import transformers

    model = checkpoint.model
    content = model.config.text_config.to_dict()
    kind = getattr(transformers, _TEXT_CLASSES[content["model_type"]])
    content = {key: value for key, value in content.items() if key not in ("model_type", "architectures")}
    alone = kind(kind.config_class(**content)).eval()
    weights = {
        name.replace("model.language_model.", "model."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("model.visual.")
    }
    alone.load_state_dict(weights)
    return alone


def _write_tokenizer(folder: Path, family: ModelFamily) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in _MERGES)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, normalized=False, special=True) for name in SPECIAL_TOKENS]
    marks = [AddedToken(name, normalized=False) for name in (family.think_open, family.think_close)]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (_SYSTEM if family.default_system_prompt else "") + _TURNS + _THINKING[family.thinking]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return tokenizer.get_vocab()


def _config(family: ModelFamily, ids: dict[str, int]) -> dict[str, object]:
    """Keyword arguments of the family's config class."""
    text: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": _HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "eos_token_id": ids["<|im_end|>"],
        "bos_token_id": None,
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
    }
    vision: dict[str, Any] = {
        "depth": 4,
        "num_heads": 2,
        "patch_size": family.patch_size,
        "spatial_merge_size": family.merge_size,
        "temporal_patch_size": family.temporal_patch_size,
    }
    if family.name == "Qwen2-VL":
        vision |= {"embed_dim": 32, "hidden_size": _HIDDEN, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": _HIDDEN}
    if family.windowed:
        vision |= {"fullatt_block_indexes": [1, 3], "window_size": 112}
    if family.video_time == "text":
        text["head_dim"] = 16
        text["rope_parameters"] |= {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
        vision["num_position_embeddings"] = 256
    if family.deepstack:
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    if family.linear_attention:
        text |= {
            "head_dim": 32,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        }
        text["rope_parameters"] |= {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}
    if family.mixture:
        # Every token goes through every expert. A choice among them would hang on rounding, and so on the processor,
        # where two are equally fit: margins of 1e-7 do occur in a test, and the other expert gives another answer.
        text |= {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 32}
        if family.linear_attention:
            text["shared_expert_intermediate_size"] = 32
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
    }
