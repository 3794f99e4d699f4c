"""The embedded model's tokenizer: byte-level BPE in Qwen3-VL's form; numbers and JSON pieces are single tokens."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwenvl.checkpoints.testing import SPECIAL_TOKENS  # named as in Qwen3-VL; the ids are this tokenizer's own

LARGEST_NUMBER = 1000
"""Coordinates are 0..1000 relative to the picture, so that every coordinate is one token."""

JSON_PIECES = (
    '[{"bbox_2d": [',
    '{"bbox_2d": [',
    '], "label": "',
    '"}, {"bbox_2d": [',
    '[{"point_2d": [',
    '{"point_2d": [',
    '"}, {"point_2d": [',
    '"}]',
    '"}',
    "[]",
)
"""Fixed parts of an answer; with them a box with a one-word label costs seven tokens."""

# A comma after a number belongs to it ("12, "): three tokens less per box. The order of the alternatives matters.
_CHUNKS = "|".join(
    (
        *(re.escape(piece) for piece in sorted(JSON_PIECES, key=len, reverse=True)),
        r"[0-9]{1,4}, ",
        r"[0-9]{1,4}",
        r" ?[A-Za-z]+",
        r" ?[^\sA-Za-z0-9]+",
        r"\s+",
    )
)

CHAT_TEMPLATE = (
    "{%- if messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].content is string %}{{- messages[0].content }}"
    "{%- else %}{%- for part in messages[0].content %}{%- if 'text' in part %}{{- part.text }}{%- endif %}{%- endfor %}"
    "{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role in ('user', 'assistant') %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'video' or 'video' in part %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Qwen3-VL's template without its tool calls: same strings for system, user, assistant, pictures."""


def split_chunks(text: str) -> list[str]:
    """Cut text as the tokenizer does before it looks anything up."""
    chunks: list[str] = []
    end = 0
    for match in re.finditer(_CHUNKS, text):
        if match.start() > end:
            chunks.append(text[end : match.start()])
        chunks.append(match.group())
        end = match.end()
    return [*chunks, text[end:]] if end < len(text) else chunks


def build_tokenizer(corpus: Iterable[str], max_words: int = 700, min_count: int = 2) -> dict[str, object]:
    """Build the content of `tokenizer.json`.

    Parameters
    ----------
    corpus : iterable of str
        Prompts and answers; their frequent chunks become tokens.
    max_words : int
        Most chunks taken from the corpus, the most frequent ones first.
    min_count : int
        Chunks seen less often are left to the bytes.

    Returns
    -------
    dict
        JSON value in the format of the `tokenizers` library.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel

    counts = Counter(chunk for text in corpus for chunk in split_chunks(text))
    words = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= min_count]
    words = [w for w in words if not w[0].isdigit() and w not in JSON_PIECES][:max_words]
    numbers = [str(v) for v in range(LARGEST_NUMBER + 1)]
    plain = [*numbers, *(f"{v}, " for v in numbers), *JSON_PIECES, "\n", *words]

    level = ByteLevel(add_prefix_space=False, use_regex=False)
    vocab: dict[str, int] = {}
    for symbol in sorted(ByteLevel.alphabet()):
        vocab[symbol] = len(vocab)
    for text in plain:
        encoded = "".join(piece for piece, _ in level.pre_tokenize_str(text))
        vocab.setdefault(encoded, len(vocab))
    # With ignore_merges a whole chunk is looked up first; what is not found falls apart into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_CHUNKS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL_TOKENS])
    content: dict[str, object] = json.loads(tokenizer.to_str())
    return content


def save_tokenizer(content: dict[str, object], folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 2048,
        "split_special_tokens": False,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )


class TextCodec:
    """Text to ids and back, plus the ids that training needs by name.

    Parameters
    ----------
    content : dict
        Content of `tokenizer.json`.
    """

    def __init__(self, content: dict[str, object]) -> None:
        from tokenizers import Tokenizer

        self.content = content
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        self.size = self._tokenizer.get_vocab_size()
        self.special: dict[str, int] = {name: self._id(name) for name in SPECIAL_TOKENS}
        self.bare_numbers: NDArray[np.int64] = self._ids(str(v) for v in range(LARGEST_NUMBER + 1))
        """Ids of '0'..'1000'."""
        self.comma_numbers: NDArray[np.int64] = self._ids(f"{v}, " for v in range(LARGEST_NUMBER + 1))
        """Ids of '0, '..'1000, '."""

    @classmethod
    def load(cls, folder: Path) -> TextCodec:
        """Read `tokenizer.json` of a checkpoint folder."""
        return cls(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))

    def encode(self, text: str) -> list[int]:
        """Token ids; names of special tokens in the text become special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def _id(self, name: str) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise ValueError(f"this tokenizer has no token {name}")
        return int(found)

    def _ids(self, texts: Iterable[str]) -> NDArray[np.int64]:
        ids = [self.encode(text) for text in texts]
        if any(len(one) != 1 for one in ids):
            raise ValueError("this tokenizer does not hold every number 0..1000 as one token")
        return np.array([one[0] for one in ids], np.int64)
