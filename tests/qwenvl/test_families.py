"""The table of families against the classes and templates of their makers."""

import json
from pathlib import Path
from typing import Any

import pytest

from qwenvl.errors import CheckpointError, UnknownFamilyError
from qwenvl.families import FAMILIES, Thinking, family_of, get_family, stated_grounding
from qwenvl.images.geometry import CoordinateSpace
from qwenvl.prompts import build_prompt, conversation, render_chat
from qwenvl.request import Request, Task

IN_TRANSFORMERS = [name for name, family in FAMILIES.items() if not family.remote_code]


@pytest.mark.parametrize(
    ("name", "factor", "space", "dialect", "tokens_1024", "tokens_448"),
    [
        ("Qwen-VL", 14, "relative_1000", "tags_v1", 256, 256),
        ("Qwen2-VL", 28, "relative_1000", "tags_v2", 1369, 256),
        ("Qwen2.5-VL", 28, "absolute_resized", "json", 1369, 256),
        ("Qwen3-VL", 32, "relative_1000", "json", 1024, 196),
        ("Qwen3-VL-Thinking", 32, "relative_1000", "json", 1024, 196),
        ("Qwen3-VL-MoE", 32, "relative_1000", "json", 1024, 196),
        ("Qwen3-VL-MoE-Thinking", 32, "relative_1000", "json", 1024, 196),
        ("Qwen3.5", 32, "relative_1000", "json", 1024, 196),
        ("Qwen3.5-MoE", 32, "relative_1000", "json", 1024, 196),
    ],
)
def test_facts(name: str, factor: int, space: str, dialect: str, tokens_1024: int, tokens_448: int) -> None:
    family = FAMILIES[name]
    assert family.factor == factor
    assert family.space is CoordinateSpace(space)
    assert family.dialect == dialect
    assert family.image_tokens(1024, 1024) == tokens_1024
    assert family.image_tokens(448, 448) == tokens_448


def test_limits_and_colours() -> None:
    for name in ("Qwen2-VL", "Qwen2.5-VL"):
        assert (FAMILIES[name].min_pixels, FAMILIES[name].max_pixels) == (3_136, 12_845_056)
        assert FAMILIES[name].image_mean == (0.48145466, 0.4578275, 0.40821073)
    for name in ("Qwen3-VL", "Qwen3.5"):
        assert (FAMILIES[name].min_pixels, FAMILIES[name].max_pixels) == (65_536, 16_777_216)
        assert FAMILIES[name].image_mean == FAMILIES[name].image_std == (0.5, 0.5, 0.5)
    assert FAMILIES["Qwen3-VL"].deepstack
    assert not FAMILIES["Qwen3.5"].deepstack
    assert [name for name, family in FAMILIES.items() if family.windowed] == ["Qwen2.5-VL"]


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_classes_of_transformers(name: str) -> None:
    import transformers

    family = FAMILIES[name]
    config = getattr(transformers, family.architecture).config_class()
    assert config.model_type in family.model_types
    assert config.image_token_id == family.tokens.image_pad
    assert config.video_token_id == family.tokens.video_pad
    assert config.vision_start_token_id == family.tokens.vision_start
    assert config.vision_end_token_id == family.tokens.vision_end
    assert config.vision_config.patch_size == family.patch_size
    assert config.vision_config.spatial_merge_size == family.merge_size
    assert config.vision_config.temporal_patch_size == family.temporal_patch_size
    assert hasattr(config.vision_config, "deepstack_visual_indexes") == family.deepstack
    assert hasattr(config.vision_config, "window_size") == family.windowed


@pytest.mark.parametrize(("folder", "name"), [("qwen2_5_vl", "Qwen2.5-VL"), ("qwen3_vl", "Qwen3-VL")])
def test_ids_in_the_real_vocabulary(real_data: Path, folder: str, name: str) -> None:
    tokenizer = _real_tokenizer(real_data, folder)
    tokens = FAMILIES[name].tokens
    for field, text in {
        "end_of_text": "<|endoftext|>",
        "im_start": "<|im_start|>",
        "im_end": "<|im_end|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
        "image_pad": "<|image_pad|>",
        "video_pad": "<|video_pad|>",
        "object_ref_start": "<|object_ref_start|>",
        "object_ref_end": "<|object_ref_end|>",
        "box_start": "<|box_start|>",
        "box_end": "<|box_end|>",
        "quad_start": "<|quad_start|>",
        "quad_end": "<|quad_end|>",
    }.items():
        assert tokenizer.convert_tokens_to_ids(text) == getattr(tokens, field), field


REQUESTS = [
    Request(task=Task.DETECT, labels=("nucleus", "mitosis")),
    Request(task=Task.SCORE, prompt="Is there necrosis?", system_prompt="You are a pathologist."),
    Request(task=Task.ASK, prompt="Zellen zählen: «wie viele»?\n\n  Danke 🙂"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.task)
@pytest.mark.parametrize(
    ("folder", "name"), [("qwen2_5_vl", "Qwen2.5-VL"), ("qwen2_5_vl", "Qwen2-VL"), ("qwen3_vl", "Qwen3-VL")]
)
def test_prompts_equal_the_real_templates(real_data: Path, folder: str, name: str, request_: Request) -> None:
    messages = conversation(build_prompt(request_), system_prompt=request_.system_prompt)
    expected = _real_tokenizer(real_data, folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert render_chat(messages, FAMILIES[name]).encode() == expected.encode()


def test_golden_prompts() -> None:
    messages = conversation("Q")
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    plain = f"<|im_start|>user\n{picture}Q<|im_end|>\n<|im_start|>assistant\n"
    assert render_chat(messages, FAMILIES["Qwen2-VL"]) == system + plain
    assert render_chat(messages, FAMILIES["Qwen3-VL"]) == plain
    assert render_chat(messages, FAMILIES["Qwen3-VL-Thinking"]) == plain + "<think>\n"
    assert render_chat(messages, FAMILIES["Qwen3.5"]) == plain + "<think>\n"
    assert render_chat(messages, FAMILIES["Qwen3.5"], thinking=False) == plain + "<think>\n\n</think>\n\n"
    assert render_chat(messages, FAMILIES["Qwen-VL"], picture_names=["a.png"]) == (
        system + "<|im_start|>user\nPicture 1:<img>a.png</img>\nQ<|im_end|>\n<|im_start|>assistant\n"
    )
    for names in ([], ["x" * 257]):
        with pytest.raises(ValueError, match="256 bytes"):
            render_chat(messages, FAMILIES["Qwen-VL"], picture_names=names)


@pytest.mark.parametrize(
    ("config", "about", "name"),
    [
        ({"model_type": "qwen2_vl"}, {}, "Qwen2-VL"),
        ({"model_type": "qwen2_5_vl"}, {}, "Qwen2.5-VL"),
        ({"model_type": "qwen3_vl"}, {}, "Qwen3-VL"),
        ({"model_type": "qwen3_vl"}, {"name": "Qwen/Qwen3-VL-8B-Thinking"}, "Qwen3-VL-Thinking"),
        ({"model_type": "qwen3_vl"}, {"chat_template": "...<think>\n..."}, "Qwen3-VL-Thinking"),
        ({"model_type": "qwen3_vl"}, {"name": "Thinking", "chat_template": "plain"}, "Qwen3-VL"),
        ({"model_type": "qwen3_vl_moe"}, {"name": "x-Thinking"}, "Qwen3-VL-MoE-Thinking"),
        ({"model_type": "qwen3_5"}, {"chat_template": "{% if enable_thinking %}<think>"}, "Qwen3.5"),
        ({"model_type": "qwen3_5_moe"}, {}, "Qwen3.5-MoE"),
        ({"model_type": "qwen", "visual": {}}, {}, "Qwen-VL"),
        ({"model_type": "other"}, {"family": "qwen2.5-vl"}, "Qwen2.5-VL"),
    ],
)
def test_family_of(config: dict[str, Any], about: dict[str, Any], name: str) -> None:
    assert family_of(config, **about).name == name


@pytest.mark.parametrize("config", [{"model_type": "llava"}, {"model_type": "qwen"}, {}])
def test_unknown_families_are_told_what_is_known(config: dict[str, Any]) -> None:
    with pytest.raises(UnknownFamilyError, match=r"some/model.*qwen2_5_vl.*qwen3_vl_moe"):
        family_of(config, name="some/model")


def test_get_family() -> None:
    assert get_family("qwen3-vl") is FAMILIES["Qwen3-VL"]
    assert FAMILIES["Qwen3.5"].thinking is Thinking.SWITCHABLE
    with pytest.raises(UnknownFamilyError, match="known are Qwen-VL, Qwen2-VL"):
        get_family("Qwen9")


def _real_tokenizer(real_data: Path, folder: str) -> Any:
    from transformers import AutoTokenizer

    path = real_data / "tokenizers" / folder
    if not (path / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer at {path}")
    assert json.loads((path / "tokenizer_config.json").read_text())["chat_template"]
    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def test_a_checkpoint_states_its_own_space_and_dialect() -> None:
    family = get_family("Qwen3-VL")
    assert stated_grounding(family, {}, "qwenvl.json") is family
    stated = stated_grounding(family, {"space": "absolute_resized", "dialect": "tags_v2"}, "qwenvl.json")
    assert (stated.space, stated.dialect) == (CoordinateSpace.ABSOLUTE_RESIZED, "tags_v2")
    for key in ("space", "dialect"):
        with pytest.raises(CheckpointError, match=rf"qwenvl.json: {key} is 'shares'; use one of"):
            stated_grounding(family, {key: "shares"}, "qwenvl.json")
