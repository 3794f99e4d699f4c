"""Decoding: one prefill, then one token per step for all tiles of a batch.

The loop calls the language model directly. Compared with `generate` it computes positions once, drops rows that
have ended, keeps the probability of every token, and stops answers that repeat themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwenvl.decoding.batching import TokenBatch
from qwenvl.decoding.cpu_decoder import LightLanguage, LightSteps
from qwenvl.decoding.repetition import Repetition
from qwenvl.decoding.sampling import Sampler
from qwenvl.decoding.token_probabilities import KeptProbabilities
from qwenvl.decoding.vision import picture_features
from qwenvl.request import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COMPACT = 0.75  # share of rows still writing at which the others are dropped
_SPARE = 0.5  # tokens that may be taken back, as a share of those that may be written


@dataclass(slots=True)
class Prefilled:
    """A batch whose prompts have been read.

    Attributes
    ----------
    cache : transformers Cache
        Grows with every step.
    attention_mask : int64 Tensor (rows, length) or None
        None where no row is padded.
    next_position : int64 Tensor (rows,)
    logits : float32 Tensor (rows, vocabulary)
        For the first new token.
    """

    cache: Any
    attention_mask: Tensor | None
    next_position: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one row wrote.

    Attributes
    ----------
    tokens : list of int
        Without the token that ended it.
    log_probabilities : list of float
        Of each token under the model's own distribution, before temperature, penalty or grammar.
    finish_reason : str
        'stop', 'length' or 'loop'.
    retaken : int
        How often something was taken back and written again.
    alternatives : list of (float16 (n,) or None)
        For each token that is one of the `watched`, the probabilities of all of them at its place.
    """

    tokens: list[int]
    log_probabilities: list[float]
    finish_reason: str
    retaken: int = 0
    alternatives: list[NDArray[np.float16] | None] = field(default_factory=list)


class Constraint(Protocol):
    """Rules out tokens; one per call of `decode`."""

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Set logits (len(rows), vocabulary) of tokens that may not come next to minus infinity, in place."""

    def accept(self, row: int, token: int) -> bool:
        """Take note of the token that comes next in `row`; False, and nothing noted, where it may not come."""

    def interrupt(self, row: int) -> bool:
        """End what goes in circles in `row`; False where nothing can be done but to stop the answer."""

    def back(self, row: int, most: int) -> int:
        """Take back up to `most` tokens of `row` to write others; how many, never all of them, or 0."""


class Steps(Protocol):
    """The decoding steps of one batch, with the state between them."""

    def read(self, tokens: Tensor) -> Tensor:
        """Read one token per row, int64 (rows,); float32 logits (rows, vocabulary) after it."""

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, int64 in rising order."""

    def back(self, row: int, count: int) -> None:
        """Forget the last tokens that were read in one row."""


def prefill(model: PreTrainedModel, batch: TokenBatch, features: object = None) -> Prefilled:
    """Read the prompts of a batch.

    Parameters
    ----------
    model : transformers model
    batch : TokenBatch
    features : transformers ModelOutput, optional
        What `picture_features` gave for the batch's pictures, where it is known already.
    """
    mask = batch.attention_mask if batch.padded else None
    pictures: dict[str, object] = {}
    if batch.patches.frames:
        grid = batch.patches.image_grid_thw.to(batch.input_ids.device)
        if features is None:
            features = picture_features(model, batch.patches.pixel_values, grid)
        kind = "video" if batch.film else "image"
        pictures = {"mm_encoder_outputs": {kind: features}, f"{kind}_grid_thw": grid}
    output = model(
        input_ids=batch.input_ids,
        attention_mask=mask,
        position_ids=batch.position_ids,
        mm_token_type_ids=batch.mm_token_type_ids,
        use_cache=True,
        logits_to_keep=1,
        **pictures,
    )
    return Prefilled(getattr(output, cache_word()), mask, batch.next_position, output.logits[:, -1].float())


def read_on(model: PreTrainedModel, state: Prefilled, ids: Sequence[int]) -> Prefilled:
    """Read further words of the prompt, the same in each row; the cache of `state` grows by them."""
    rows, device = len(state.logits), state.logits.device
    tokens = torch.tensor([ids], device=device).expand(rows, -1)
    logits = extend(model, state, tokens, last=True)[:, -1]
    mask = state.attention_mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(rows, len(ids))], dim=1)
    return Prefilled(state.cache, mask, state.next_position + len(ids), logits)


@functools.cache
def cache_word() -> str:
    """What transformers calls the cache of keys and values, in what models take and give: renamed in 5.24."""
    import transformers

    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return "cache" if release >= (5, 24) else "past_key_values"


def croppable(cache: Any) -> bool:
    """True where tokens can be taken back from a cache; the state of linear attention cannot."""
    return all(layer.is_croppable for layer in cache.layers)


def extend(model: PreTrainedModel, state: Prefilled, tokens: Tensor, *, last: bool = False) -> Tensor:
    """Read further tokens, the same number in each row.

    Parameters
    ----------
    state : Prefilled
        Its cache grows by the tokens; its other fields stay as they are.
    tokens : int64 Tensor (rows, n)
    last : bool
        Give the logits after the last token alone, as (rows, 1, vocabulary).

    Returns
    -------
    float32 Tensor (rows, n, vocabulary)
        Logits after each of the tokens.
    """
    rows, count = tokens.shape
    position = state.next_position[:, None] + torch.arange(count, device=tokens.device)
    mask = state.attention_mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(rows, count)], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(tokens),
        position_ids=position.expand(3, rows, count),
        attention_mask=mask,
        use_cache=True,
        **{cache_word(): state.cache},
    ).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden[:, -1:] if last else hidden)
    return logits.float()


def decode(
    model: PreTrainedModel,
    state: Prefilled,
    batch: TokenBatch,
    settings: Generation,
    *,
    eos: Sequence[int],
    constraint: Constraint | None = None,
    language: LightLanguage | None = None,
    stepper: Callable[[Prefilled, int], Steps] | None = None,
    watched: Sequence[int] = (),
) -> list[Decoded]:
    """Write the answers of a prefilled batch.

    Parameters
    ----------
    model : transformers model
    state : Prefilled
        Used up.
    batch : TokenBatch
        The prompts that were read.
    settings : Generation
    eos : sequence of int
        Tokens that end an answer.
    constraint : Constraint, optional
    language : LightLanguage, optional
        The same model's decoding step for a CPU; transformers' own step otherwise.
    stepper : callable, optional
        Gives the steps of a state with room for a number of tokens, in place of both.
    watched : sequence of int, optional
        Tokens whose probabilities are kept wherever one of them is written.

    Returns
    -------
    list of Decoded
        One per row of the batch.
    """
    ends, most = frozenset(eos), settings.max_new_tokens
    count = len(batch.lengths)
    tokens: list[list[int]] = [[] for _ in range(count)]
    chances: list[list[float]] = [[] for _ in range(count)]
    reasons, retaken = ["length"] * count, [0] * count
    others = KeptProbabilities(watched, count, state.logits.device)
    rows = list(range(count))  # batch row of each row of the state
    writing = set(rows)
    watches = [Repetition() for _ in rows]
    sampler = Sampler(settings, batch.input_ids, state.logits.shape[-1])
    # The most likely token is most often one that may come, and then no mask is needed to find it.
    plain = settings.temperature == 0 and settings.repetition_penalty == 1.0
    spare = [int(_SPARE * most) if constraint is not None and croppable(state.cache) else 0] * count
    steps: Steps = TransformersSteps(model, state)
    if stepper is not None:
        steps = stepper(state, most + max(spare))
    elif language is not None:
        steps = LightSteps(language, state.cache, state.attention_mask, state.next_position)
        state.cache = None
    logits = state.logits
    while True:
        if constraint is None:
            chosen = sampler.choose(logits)
        elif plain:
            chosen = _first_allowed(logits, rows, writing, constraint)
        else:
            allowed = logits.clone()
            constraint.apply(allowed, rows)
            chosen = sampler.choose(allowed)
            _note(chosen, rows, writing, constraint)
        total = logits.logsumexp(-1)
        chance = logits.gather(1, chosen[:, None]).squeeze(1) - total
        others.look(logits, total)
        written = zip(rows, chosen.tolist(), chance.tolist(), strict=True)
        for at, (row, token, log_probability) in enumerate(written):
            if row not in writing:
                continue
            if token in ends:
                reasons[row] = "stop"
                writing.discard(row)
                continue
            tokens[row].append(token)
            chances[row].append(log_probability)
            others.add(row, at, token)
            circling = watches[row].add(token)
            back = constraint.back(row, spare[row]) if constraint is not None else 0
            if back:
                del tokens[row][-back:], chances[row][-back:]
                watches[row].back(back)
                others.back(row, back)
                steps.back(at, back)
                chosen[at] = tokens[row][-1]
                spare[row] -= back
                retaken[row] += 1
            elif circling and constraint is not None and constraint.interrupt(row):
                watches[row].forget()
            elif circling or len(tokens[row]) == most:
                reasons[row] = "loop" if circling else "length"
                writing.discard(row)
        if not writing:
            break
        if len(writing) <= _COMPACT * len(rows):
            kept = [index for index, row in enumerate(rows) if row in writing]
            rows = [rows[index] for index in kept]
            index = torch.tensor(kept, device=chosen.device)
            chosen = chosen[index]
            sampler.keep(index)
            steps.keep(index)
        logits = steps.read(chosen)
    return [Decoded(*parts) for parts in zip(tokens, chances, reasons, retaken, others.told(), strict=True)]


class TransformersSteps:
    """The model's own step; see `Steps`."""

    def __init__(self, model: PreTrainedModel, state: Prefilled) -> None:
        self._model = model
        self._state = state

    def read(self, tokens: Tensor) -> Tensor:
        """Read one token per row."""
        state = self._state
        logits = extend(self._model, state, tokens[:, None])[:, -1]
        state.next_position = state.next_position + 1
        if state.attention_mask is not None:
            state.attention_mask = torch.cat(
                [state.attention_mask, state.attention_mask.new_ones(len(tokens), 1)], dim=1
            )
        return logits

    def back(self, row: int, count: int) -> None:
        """Forget the last tokens that were read in one row: they are never looked at again."""
        state = self._state
        if state.attention_mask is None:
            length = state.cache.get_seq_length()
            state.attention_mask = state.next_position.new_ones(len(state.next_position), length)
        state.attention_mask[row, -count:] = 0
        state.next_position[row] -= count

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        state = self._state
        state.cache.reorder_cache(rows)
        state.next_position = state.next_position[rows]
        if state.attention_mask is not None:
            state.attention_mask = state.attention_mask[rows]


def _first_allowed(logits: Tensor, rows: Sequence[int], writing: set[int], constraint: Constraint) -> Tensor:
    """The most likely token of each row that may come; the constraint takes note of it."""
    chosen = logits.argmax(-1)
    refused = [
        index
        for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True))
        if row in writing and not constraint.accept(row, token)
    ]
    if refused:
        index = torch.tensor(refused, device=logits.device)
        allowed = logits[index]
        others = [rows[at] for at in refused]
        constraint.apply(allowed, others)
        second = allowed.argmax(-1)
        _note(second, others, writing, constraint)
        chosen[index] = second
    return chosen


def _note(chosen: Tensor, rows: Sequence[int], writing: set[int], constraint: Constraint) -> None:
    for row, token in zip(rows, chosen.tolist(), strict=True):
        if row in writing and not constraint.accept(row, token):
            raise RuntimeError(f"token {token} breaks the grammar it was chosen by")
