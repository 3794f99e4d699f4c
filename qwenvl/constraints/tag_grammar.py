"""Constrained decoding of boxes in tags, as Qwen2-VL writes them:

    <|object_ref_start|>nucleus<|object_ref_end|><|box_start|>(12,30),(45,61)<|box_end|>

The tags are tokens of their own, which are not text to a grammar, so a small automaton leads from tag to tag and
xgrammar keeps what stands between them. Between objects the model may write what it likes: this dialect has no word for
"nothing here", and a model that must begin with a tag would invent an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from qwenvl.request import Request, Task

_NUMBER = 'number ::= "1000" | "0" | [1-9] [0-9]? [0-9]?\n'
_NAMES = ("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end")


@dataclass(frozen=True, slots=True)
class TagTokens:
    """Ids of the tags."""

    object_ref_start: int
    object_ref_end: int
    box_start: int
    box_end: int
    quad_start: int
    quad_end: int


def tag_tokens(tokenizer: Any) -> TagTokens | None:
    """The tags of a vocabulary; None where it does not have them all."""
    ids = [tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _NAMES]
    known = all(each is not None and each != tokenizer.unk_token_id for each in ids)
    return TagTokens(*ids) if known else None


def label_grammar(request: Request) -> str:
    """What may stand between the tags of a label: one of the request's, or any words where it names none."""
    if not request.labels:
        return "root ::= [^<>\\n\\r]{1,80}\n"
    quoted = (label.replace("\\", "\\\\").replace('"', '\\"') for label in request.labels)
    return "root ::= " + " | ".join(f'"{label}"' for label in quoted) + "\n"


def place_grammar(request: Request) -> str:
    """What may stand between the tags of a box: two corners, or one place for points, from 0 to 1000."""
    pair = '"(" number "," number ")"'
    return f"root ::= {pair}\n{_NUMBER}" if request.task is Task.POINT else f'root ::= {pair} "," {pair}\n{_NUMBER}'


class _Mode(Enum):
    TEXT = 0
    LABEL = 1
    BEFORE_PLACE = 2
    PLACE = 3
    AFTER_PLACE = 4


class TagConstraint:
    """Keeps the tags of each row in order; see `qwenvl.decoding.decode.Constraint`.

    Parameters
    ----------
    label, place : xgrammar.CompiledGrammar
        Of what stands between the tags.
    tags : TagTokens
    rows : int
    vocabulary : int
        Width of the logits.
    barred : set of int
        Tokens that are no text.
    eos : sequence of int
    most : int
        Objects after which the answer must end.
    """

    def __init__(
        self,
        label: Any,
        place: Any,
        tags: TagTokens,
        rows: int,
        *,
        vocabulary: int,
        barred: set[int],
        eos: Sequence[int],
        most: int,
    ) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._grammars = {_Mode.LABEL: (label, tags.object_ref_end), _Mode.PLACE: (place, tags.box_end)}
        self._tags, self._eos, self._most = tags, set(eos), most
        self._barred = barred | {getattr(tags, name) for name in _NAMES}
        self._barred_index = torch.tensor(sorted(self._barred), dtype=torch.int64)
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocabulary)
        self._modes = [_Mode.TEXT] * rows
        self._matchers: list[Any] = [None] * rows
        self._found = [0] * rows

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Rule out in `logits` (len(rows), vocabulary) what may not come next."""
        for index, row in enumerate(rows):
            opening = self._opening(row)
            if opening is None:
                close = self._grammars[self._modes[row]][1]
                kept = logits[index, close].clone()
                self._matchers[row].fill_next_token_bitmask(self._bitmask)
                closes = bool((self._bitmask[0, close // 32] >> (close % 32)) & 1)
                self._xgrammar.apply_token_bitmask_inplace(logits[index : index + 1], self._bitmask.to(logits.device))
                logits[index, self._barred_index.to(logits.device)] = -torch.inf
                logits[index, close] = kept if closes else -torch.inf
                continue
            free = self._modes[row] is not _Mode.BEFORE_PLACE and self._found[row] < self._most
            allowed = sorted(opening)
            kept = logits[index, allowed].clone()
            logits[index, self._barred_index.to(logits.device) if free else slice(None)] = -torch.inf
            logits[index, allowed] = kept

    def accept(self, row: int, token: int) -> bool:
        """Take note of a token; False where it may not come."""
        mode, tags = self._modes[row], self._tags
        opening = self._opening(row)
        if opening is None:
            matcher, close = self._matchers[row], self._grammars[mode][1]
            if (token in self._barred and token != close) or not matcher.accept_token(token):
                return False
            if token == close:
                self._found[row] += mode is _Mode.PLACE
                self._modes[row] = _Mode.BEFORE_PLACE if mode is _Mode.LABEL else _Mode.AFTER_PLACE
            return True
        if token not in opening:
            free = mode is not _Mode.BEFORE_PLACE and self._found[row] < self._most
            if not free or token in self._barred:
                return False
            self._modes[row] = _Mode.TEXT
            return True
        if token in (tags.object_ref_start, tags.box_start):
            self._modes[row] = _Mode.LABEL if token == tags.object_ref_start else _Mode.PLACE
            grammar, close = self._grammars[self._modes[row]]
            self._matchers[row] = self._xgrammar.GrammarMatcher(grammar, override_stop_tokens=[close])
        return True

    def interrupt(self, row: int) -> bool:
        """False: an answer has no thought to end."""
        return False

    def back(self, row: int, most: int) -> int:
        """0: nothing is rolled back."""
        return 0

    def _opening(self, row: int) -> set[int] | None:
        """Tokens that are no text and may come next; None within a label or a place."""
        mode, tags = self._modes[row], self._tags
        if mode in (_Mode.LABEL, _Mode.PLACE):
            return None
        if mode is _Mode.BEFORE_PLACE:
            return {tags.box_start}
        if self._found[row] >= self._most:
            return self._eos
        # Several boxes may follow one label.
        return self._eos | {tags.object_ref_start} | ({tags.box_start} if mode is _Mode.AFTER_PLACE else set())
