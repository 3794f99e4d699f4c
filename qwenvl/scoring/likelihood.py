"""Scoring: how likely words are as the answer, from the prompt alone, without writing anything.

The probability of a word is that of its tokens one after the other; all spellings of a word are summed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qwenvl.decoding.decode import Prefilled, croppable, extend
from qwenvl.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Spellings = tuple[tuple[int, ...], ...]
"""Token ids of each spelling of one word."""


def yes_and_no(tokenizer: PreTrainedTokenizerBase) -> list[Spellings]:
    """Spellings of 'yes' and 'no' with and without capitals and a space before them.

    Where the vocabulary holds spellings of both words as single tokens, as Qwen's does, only those count, so that
    one look at the logits is enough.
    """
    words = [_distinct(tokenizer, _variants(word)) for word in ("yes", "no")]
    single: list[Spellings] = [tuple(ids for ids in spellings if len(ids) == 1) for spellings in words]
    return single if all(single) else words


def label_spellings(tokenizer: Any, labels: Sequence[str], *, end: int) -> list[Spellings]:
    """Spellings of each label, as written and with a capital first letter, such that none begins another.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    labels : sequence of str
    end : int
        Token that ends an answer; it is added to a spelling that another one continues ('tumour', 'tumour edge').

    Raises
    ------
    RequestError
        Two labels have the same spelling.
    """
    words = [_distinct(tokenizer, (label, label[:1].upper() + label[1:])) for label in labels]
    owners: dict[tuple[int, ...], str] = {}
    for label, spellings in zip(labels, words, strict=True):
        for ids in spellings:
            if ids in owners:
                raise RequestError(
                    f"labels {owners[ids]!r} and {label!r} are the same word to the model; rename one of them"
                )
            owners[ids] = label
    starts = {ids[:size] for ids in owners for size in range(1, len(ids))}
    return [tuple((*ids, end) if ids in starts else ids for ids in spellings) for spellings in words]


def word_probabilities(model: PreTrainedModel, state: Prefilled, words: Sequence[Spellings]) -> Tensor:
    """Probability of each word as the beginning of the answer, relative to the other words.

    Parameters
    ----------
    model : transformers model
    state : Prefilled
        Left as it was.
    words : sequence of Spellings
        No spelling may begin another.

    Returns
    -------
    float32 Tensor (rows, words)
        Each row sums to 1.
    """
    first = state.logits.log_softmax(-1)
    sums = []
    for spellings in words:
        chances = [first[:, ids[0]] + _rest(model, state, ids) for ids in spellings]
        sums.append(torch.logsumexp(torch.stack(chances), dim=0))
    return torch.stack(sums, dim=1).softmax(-1)


def _rest(model: PreTrainedModel, state: Prefilled, ids: tuple[int, ...]) -> Tensor | float:
    """Log-probability of all tokens of a spelling but the first, given those before."""
    if len(ids) == 1:
        return 0.0
    rows = len(state.logits)
    cache = state.cache
    cuttable = croppable(cache)
    if not cuttable:
        state = Prefilled(copy.deepcopy(cache), state.attention_mask, state.next_position, state.logits)
    known = torch.tensor([ids[:-1]], device=state.logits.device).expand(rows, -1)
    chances = extend(model, state, known).log_softmax(-1)
    if cuttable:
        cache.crop(-known.shape[1])
    wanted = torch.tensor(ids[1:], device=chances.device).view(1, -1, 1).expand(rows, -1, 1)
    return chances.gather(2, wanted).sum(dim=(1, 2))


def _variants(word: str) -> tuple[str, ...]:
    return tuple(space + form for form in (word, word.capitalize(), word.upper()) for space in ("", " "))


def _distinct(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Spellings:
    encoded = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return tuple(dict.fromkeys(ids for ids in encoded if ids))
