"""Choosing the next token. Nothing here depends on which tiles stand in the same batch."""

from __future__ import annotations

import torch
from torch import Tensor

from qwenvl.request import Generation


class Sampler:
    """Chooses tokens by a request's settings, in the order of operations of transformers' `generate`.

    All rows draw with the same random number at the same step, so that a tile's answer depends on the seed and
    on the tile alone.

    Parameters
    ----------
    settings : Generation
    prompt_ids : int64 Tensor (rows, length)
        Tokens that count as said for the repetition penalty.
    vocabulary : int
        Width of the logits.
    """

    def __init__(self, settings: Generation, prompt_ids: Tensor, vocabulary: int) -> None:
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._seen: Tensor | None = None
        if settings.repetition_penalty != 1.0:
            self._seen = torch.zeros(len(prompt_ids), vocabulary, dtype=torch.bool, device=prompt_ids.device)
            self._seen.scatter_(1, prompt_ids, True)

    def choose(self, logits: Tensor) -> Tensor:
        """Next token of each row: float32 logits (rows, vocabulary) to int64 (rows,)."""
        settings = self._settings
        if self._seen is not None:
            penalty = settings.repetition_penalty
            logits = torch.where(self._seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
        tokens = logits.argmax(-1) if settings.temperature == 0 else self._draw(logits / settings.temperature)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        return tokens

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        if self._seen is not None:
            self._seen = self._seen[rows]

    def _draw(self, logits: Tensor) -> Tensor:
        settings = self._settings
        width = min(settings.top_k, logits.shape[-1]) if settings.top_k else logits.shape[-1]
        values, tokens = logits.topk(width, dim=-1)
        probabilities = values.softmax(-1)
        sums = probabilities.cumsum(-1)
        # A token stays while those before it do not reach top_p; the first one always stays.
        kept = torch.where(sums - probabilities < settings.top_p, probabilities, 0.0)
        sums = kept.cumsum(-1)
        number = torch.rand(1, generator=self._generator).to(sums.device)
        at = torch.searchsorted(sums, number * sums[:, -1:], right=True).clamp_(max=width - 1)
        return tokens.gather(1, at).squeeze(1)
