"""What else a model might have written: probabilities that decoding keeps where they matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class KeptProbabilities:
    """Probabilities of some tokens, wherever one of them is written.

    They stay on the device until all is written, so that no step waits for them.
    """

    def __init__(self, tokens: Sequence[int], rows: int, device: torch.device) -> None:
        self._known = frozenset(tokens)
        self._index = torch.tensor(list(tokens), dtype=torch.int64, device=device)
        self._places: list[list[tuple[int, int] | None]] = [[] for _ in range(rows)]
        self._kept: list[Tensor] = []
        self._now: tuple[Tensor, Tensor] | None = None

    def look(self, logits: Tensor, total: Tensor) -> None:
        """A step's logits (rows, vocabulary) and their logsumexp (rows,)."""
        self._now = (logits, total)

    def add(self, row: int, at: int, token: int) -> None:
        """Token `token` is written in `row`, which is row `at` of the step."""
        if token not in self._known:
            self._places[row].append(None)
            return
        if self._now is not None:
            logits, total = self._now
            self._kept.append((logits[:, self._index] - total[:, None]).exp().half())
            self._now = None
        self._places[row].append((len(self._kept) - 1, at))

    def back(self, row: int, count: int) -> None:
        """The last tokens of a row were taken back."""
        del self._places[row][-count:]

    def told(self) -> list[list[NDArray[np.float16] | None]]:
        """Of each row, the probabilities at each of its tokens, or None."""
        kept = [step.cpu().numpy() for step in self._kept]
        return [[None if place is None else kept[place[0]][place[1]] for place in places] for places in self._places]
