"""Constrained decoding: only tokens that keep an answer within a JSON Schema (xgrammar)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwenvl.errors import RequestError


class SchemaGrammar:
    """A compiled JSON Schema; compile once, then one `JsonConstraint` per batch.

    Parameters
    ----------
    schema : dict
        JSON Schema of the answer.
    tokenizer : transformers tokenizer
    vocabulary : int
        Width of the model's logits, which may be larger than the tokenizer.
    eos : sequence of int
        Tokens that may end the answer once it is complete.

    Raises
    ------
    RequestError
        The schema uses what cannot be enforced.
    """

    def __init__(self, schema: dict[str, Any], tokenizer: Any, vocabulary: int, eos: Sequence[int]) -> None:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=list(eos)
        )
        compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        try:
            self._grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise RequestError(
                f"output_schema cannot be enforced: {reason}; use types, enums, properties, required and items"
            ) from error
        self._vocabulary = vocabulary

    def constraint(self, rows: int) -> JsonConstraint:
        """A fresh constraint for a batch of `rows` answers."""
        return JsonConstraint(self._grammar, rows, self._vocabulary)


class JsonConstraint:
    """Keeps each row of one batch within a grammar; see `qwenvl.decoding.Constraint`."""

    def __init__(self, grammar: Any, rows: int, vocabulary: int) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._matchers = [xgrammar.GrammarMatcher(grammar) for _ in range(rows)]
        self._bitmask = xgrammar.allocate_token_bitmask(rows, vocabulary)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Rule out in `logits` (len(rows), vocabulary) what may not come next."""
        used = []
        for index, row in enumerate(rows):
            matcher = self._matchers[row]
            if not matcher.is_terminated():
                matcher.fill_next_token_bitmask(self._bitmask, index)
                used.append(index)
        if used:
            mask = self._bitmask[: len(rows)].to(logits.device)
            self._xgrammar.apply_token_bitmask_inplace(logits, mask, indices=used)

    def accept(self, row: int, token: int) -> None:
        """Take note of a token."""
        if not self._matchers[row].accept_token(token):
            raise RuntimeError(f"token {token} breaks the grammar it was chosen by")


def vocabulary_size(model: Any) -> int:
    """Width of a model's logits."""
    weight: torch.Tensor = model.get_output_embeddings().weight
    return weight.shape[0]
