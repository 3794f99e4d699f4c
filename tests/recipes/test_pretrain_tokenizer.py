"""The embedded model's tokenizer: numbers and JSON pieces are single tokens, and any text survives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.pretrain.tasks import corpus
from recipes.pretrain.tokenizer import SPECIAL_TOKENS, TextCodec, build_tokenizer, save_tokenizer, split_chunks

CODEC = TextCodec(build_tokenizer(corpus(1, count=400)))


def test_every_number_is_one_token_with_and_without_comma() -> None:
    ids = [CODEC.encode(str(v)) for v in range(1001)] + [CODEC.encode(f"{v}, ") for v in range(1001)]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 2002


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('[{"bbox_2d": [0, 17, 999, 1000], "label": "nucleus"}]', 8),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "tumor"}, {"bbox_2d": [5, 6, 7, 8], "label": "tumor"}]', 15),
        ("[]", 1),
        ("yes", 1),
        ("<|im_start|>user\n", 3),
    ],
)
def test_answers_are_short(text: str, count: int) -> None:
    assert len(CODEC.encode(text)) == count


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    if any(name in text for name in SPECIAL_TOKENS):
        return
    assert CODEC.decode(CODEC.encode(text)) == text
    assert "".join(split_chunks(text)) == text


def test_large_numbers_and_leading_zeros_fall_apart() -> None:
    for text in ("1001", "20487", "007", "3.75, 12"):
        assert CODEC.decode(CODEC.encode(text)) == text
    assert len(CODEC.encode("1001")) == 4


def test_loads_in_transformers_with_qwen3_vl_turns(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(CODEC.content, tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = 'Locate [{"bbox_2d": [12, 34, 56, 78], "label": "tumor cell"}] \u00e9\u6f22'
    assert tokenizer(text, add_special_tokens=False).input_ids == CODEC.encode(text)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    ]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "What is this?<|im_end|>\n<|im_start|>assistant\n"
    )
    for name in SPECIAL_TOKENS:
        assert tokenizer.convert_tokens_to_ids(name) == CODEC.special[name]
