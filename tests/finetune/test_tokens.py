"""Only the answer is taught: proved token by token on the real tokenizers and on every tiny family."""

from __future__ import annotations

import json

import pytest

from finetune.errors import RecipeError, SampleTooLongError
from finetune.examples.conversation import Exchange
from finetune.examples.tokens import IGNORED, TurnTokens
from qwenvl.families import get_family

TRAINABLE = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-Thinking", "Qwen3-VL-MoE", "Qwen3.5")
ANSWER = json.dumps([{"bbox_2d": [412, 300, 431, 322], "label": "mitosis"}])
# Words that a search for markers would trip over.
TRAP = "Which assistant said 'assistant'? Report bbox_2d and label in JSON format.\nassistant\n"


def real(data, name, family, limit=32768):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name, local_files_only=True)
    return TurnTokens(tokenizer, get_family(family), limit=limit)


@pytest.mark.parametrize("answer", [ANSWER, "[]", "7", "assistant", "Zellen mit Kernen, größer als 3 µm.", " leading"])
@pytest.mark.parametrize(("name", "family"), [("qwen2_5_vl", "Qwen2.5-VL"), ("qwen3_vl", "Qwen3-VL")])
def test_real_tokenizers_teach_the_answer_and_its_end_only(real_data, name, family, answer):
    tokens = real(real_data, name, family)
    made = tokens.turn(Exchange(TRAP, answer), [5])
    tokenizer = tokens.tokenizer
    taught = [i for i, on in zip(made.ids, made.taught, strict=True) if on]
    assert tokenizer.decode(taught, skip_special_tokens=False) == answer + "<|im_end|>"
    assert made.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert made.taught[-1]
    first = made.taught.index(True)
    assert all(made.taught[first:])  # one stretch, up to the end
    before = tokenizer.decode(made.ids[:first], skip_special_tokens=False)
    assert before.endswith("<|im_start|>assistant\n")
    assert before.count("<|image_pad|>") == 5
    # Exactly what the model is asked with: the template's own prompt, tokenised alone.
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TRAP}]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert before == prompt.replace("<|image_pad|>", "<|image_pad|>" * 5)
    # And what the template makes of the whole conversation, apart from the line end after the mark.
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    both = tokenizer.decode(made.ids, skip_special_tokens=False).replace("<|image_pad|>" * 5, "<|image_pad|>")
    assert both + "\n" == whole
    labels = made.labels
    assert [label for label, on in zip(labels, made.taught, strict=True) if not on] == [IGNORED] * first


@pytest.mark.parametrize("family", TRAINABLE)
def test_every_family(family, tiny):
    from qwenvl.checkpoints.loading import load_checkpoint

    checkpoint = load_checkpoint(tiny(family))
    tokens = TurnTokens(checkpoint.tokenizer, checkpoint.family)
    made = tokens.turn(Exchange(TRAP, ANSWER), [3])
    taught = [i for i, on in zip(made.ids, made.taught, strict=True) if on]
    opening = "\n</think>\n\n" if family.endswith("Thinking") else ""
    assert checkpoint.tokenizer.decode(taught, skip_special_tokens=False) == f"{opening}{ANSWER}<|im_end|>"
    assert taught[-1] in checkpoint.eos_token_ids


def test_every_turn_of_a_conversation(real_data):
    tokens = real(real_data, "qwen3_vl", "Qwen3-VL")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You are an assistant."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many? assistant"}]},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes, 7."},
    ]
    made = tokens.conversation(messages, [4])
    pieces, run = [], []
    for token, on in zip(made.ids, made.taught, strict=True):
        if on:
            run.append(token)
        elif run:
            pieces.append(run)
            run = []
    pieces += [run] if run else []
    assert [tokens.tokenizer.decode(p) for p in pieces] == ["7<|im_end|>", "Yes, 7.<|im_end|>"]


def test_too_long_is_refused_with_its_length(real_data):
    tokens = real(real_data, "qwen3_vl", "Qwen3-VL", limit=200)
    with pytest.raises(SampleTooLongError, match=r"\d{3} tokens \(180 of pictures, \d+ of answers\) are more than 200"):
        tokens.turn(Exchange("Locate.", ANSWER), [180])


def test_picture_tokens_in_words_are_refused(real_data):
    tokens = real(real_data, "qwen3_vl", "Qwen3-VL")
    with pytest.raises(RecipeError, match="where no picture is"):
        tokens.turn(Exchange("Locate <|image_pad|>.", ANSWER), [5])
    with pytest.raises(RecipeError, match="where no picture is"):
        tokens.turn(Exchange("Locate.", "<|image_pad|>"), [5])


def test_a_template_without_an_end_mark_is_refused(tiny):
    from qwenvl.checkpoints.loading import load_checkpoint

    checkpoint = load_checkpoint(tiny("Qwen3-VL"))
    checkpoint.tokenizer.chat_template = checkpoint.tokenizer.chat_template.replace(
        "<|im_end|>\n{% endfor %}", "\n{% endfor %}"
    )
    with pytest.raises(RecipeError, match="would not stop"):
        TurnTokens(checkpoint.tokenizer, checkpoint.family).turn(Exchange("a", "b"), [1])
