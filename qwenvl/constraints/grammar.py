"""Constrained decoding: only tokens that keep an answer within its grammar (xgrammar)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qwenvl.constraints.box_constraint import TokenPieces, WrittenBoxes
from qwenvl.constraints.tag_grammar import TagConstraint, label_grammar, place_grammar, tag_tokens
from qwenvl.decoding.decode import Constraint
from qwenvl.errors import RequestError
from qwenvl.images.geometry import PictureFrame
from qwenvl.parse.text.counting import MAX_COUNT
from qwenvl.request import Request, Task
from qwenvl.scoring.confidence import NumberVocabulary

if TYPE_CHECKING:
    import xgrammar
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qwenvl.images.geometry import CoordinateSpace

_ANY_LABEL = r'^[^"\\\x00-\x1f]{1,80}$'
_KEPT = 32  # compiled grammars; the questions and picture sizes of a long session have no end
_SEPARATORS = (", ", ": ")  # as in the answers that the families are trained on


def answer_schema(request: Request, *, dialect: str, extent: tuple[float, float]) -> dict[str, Any] | None:
    """JSON Schema of the answers to a request in a family's own dialect.

    Parameters
    ----------
    request : Request
    dialect : str
        Grounding dialect of the family.
    extent : tuple of float
        Largest x and y that the family writes for the picture (`PictureFrame.extent`).

    Returns
    -------
    dict or None
        None where the answer is no JSON: words, and boxes in tags (`qwenvl.constraints.tag_grammar`).
    """
    match request.task:
        case Task.EXTRACT:
            return request.output_schema
        case Task.COUNT:
            return {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
        case Task.DETECT | Task.POINT if dialect == "json":
            x, y = ({"type": "integer", "minimum": 0, "maximum": int(limit)} for limit in extent)
            key, numbers = ("bbox_2d", [x, y, x, y]) if request.task is Task.DETECT else ("point_2d", [x, y])
            label: dict[str, object] = {"type": "string", "pattern": _ANY_LABEL}
            if request.labels:
                label = {"enum": list(request.labels)}
            place = {"type": "array", "prefixItems": numbers, "minItems": len(numbers), "items": False}
            item = {
                "type": "object",
                "properties": {key: place, "label": label},
                "required": [key, "label"],
                "additionalProperties": False,
            }
            return {"type": "array", "items": item, "maxItems": request.max_objects}
        case _:
            return None


class Grammars:
    """Compiles the grammars of a checkpoint's answers, each once, and keeps those used last.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    vocabulary : int
        Width of the model's logits, which may be larger than the tokenizer.
    eos : sequence of int
        Tokens that may end the answer once it is complete.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos: Sequence[int]) -> None:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=list(eos))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._vocabulary = vocabulary
        self._eos = tuple(eos)
        self._tags = tag_tokens(tokenizer)
        # Marks of the conversation are text to xgrammar, and would be taken inside a string.
        self._barred = {*tokenizer.added_tokens_decoder, *info.special_token_ids} - set(eos)
        self._compiled: dict[str, object] = {}
        self._pieces = TokenPieces(NumberVocabulary(tokenizer, vocabulary).pieces(range(vocabulary)))

    def constraint(
        self, request: Request, frames: Sequence[PictureFrame], *, dialect: str, space: CoordinateSpace
    ) -> Constraint | None:
        """A fresh constraint for the answers of one batch, a picture per row; None where they are free.

        Raises
        ------
        RequestError
            The schema of `extract` uses what cannot be enforced.
        """
        if dialect == "tags_v2" and request.task in (Task.DETECT, Task.POINT) and self._tags is not None:
            label = self._grammar(label_grammar(request))
            place = self._grammar(place_grammar(request))
            return TagConstraint(
                label,
                place,
                self._tags,
                len(frames),
                vocabulary=self._vocabulary,
                barred=self._barred,
                eos=self._eos,
                most=request.max_objects,
            )
        extents = [frame.extent(space) for frame in frames]
        schemas = [answer_schema(request, dialect=dialect, extent=extent) for extent in extents]
        grammars = [self._grammar(schema) for schema in schemas if schema is not None]
        if not grammars:
            return None
        boxes = None
        if request.task is Task.DETECT:
            boxes = WrittenBoxes(self._pieces, [(int(x), int(y)) for x, y in extents])
        return JsonConstraint(grammars, self._vocabulary, self._barred, boxes)

    def _grammar(self, schema: Mapping[str, object] | str) -> Any:
        """A compiled JSON Schema, or a grammar in xgrammar's EBNF."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        known = self._compiled.pop(text, None)
        self._compiled[text] = self._compile(schema, text) if known is None else known
        if len(self._compiled) > _KEPT:
            del self._compiled[next(iter(self._compiled))]  # the one whose last use lies furthest back
        return self._compiled[text]

    def _compile(self, schema: Mapping[str, object] | str, text: str) -> xgrammar.CompiledGrammar:
        if isinstance(schema, str):
            return self._compiler.compile_grammar(text)
        try:
            return self._compiler.compile_json_schema(text, any_whitespace=False, separators=_SEPARATORS)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise RequestError(
                f"output_schema cannot be enforced: {reason}; use types, enums, properties, required and items"
            ) from error


class JsonConstraint:
    """Keeps each row of one batch within its grammar; see `qwenvl.decoding.decode.Constraint`.

    Parameters
    ----------
    grammars : sequence of xgrammar.CompiledGrammar
        One per row.
    vocabulary : int
        Width of the logits.
    barred : set of int
        Tokens that may never come.
    boxes : WrittenBoxes, optional
        What is asked of boxes beyond the grammar.
    """

    def __init__(
        self,
        grammars: Sequence[xgrammar.CompiledGrammar],
        vocabulary: int,
        barred: set[int],
        boxes: WrittenBoxes | None = None,
    ) -> None:
        import xgrammar

        self.boxes = boxes
        self._barred = barred
        self._barred_index = torch.tensor(sorted(barred), dtype=torch.int64)
        self._xgrammar = xgrammar
        self._matchers = [xgrammar.GrammarMatcher(grammar) for grammar in grammars]
        self._together = xgrammar.BatchGrammarMatcher(max_threads=1)
        self._bitmask = xgrammar.allocate_token_bitmask(len(grammars), vocabulary)

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Rule out in `logits` (len(rows), vocabulary) what may not come next."""
        open_rows = [
            (index, matcher) for index, row in enumerate(rows) if not (matcher := self._matchers[row]).is_terminated()
        ]
        if not open_rows:
            return
        indices = [index for index, _ in open_rows]
        self._together.batch_fill_next_token_bitmask([matcher for _, matcher in open_rows], self._bitmask, indices)
        mask = self._bitmask[: len(rows)].to(logits.device)
        self._xgrammar.apply_token_bitmask_inplace(logits, mask, indices=indices)
        logits.index_fill_(1, self._barred_index.to(logits.device), -torch.inf)
        if self.boxes is not None:
            for index in indices:
                self.boxes.narrow(rows[index], logits[index])

    def accept(self, row: int, token: int) -> bool:
        """Take note of a token; False where it may not come."""
        if token in self._barred or not self._matchers[row].accept_token(token):
            return False
        if self.boxes is not None and not self.boxes.take(row, token):
            self._matchers[row].rollback(1)
            return False
        return True

    def interrupt(self, row: int) -> bool:
        """False: an answer has no thought to end."""
        return False

    def back(self, row: int, most: int) -> int:
        """Take back a box that stands there already, of up to `most` tokens; how many it has, or 0."""
        count = 0 if self.boxes is None else self.boxes.back(row, most)
        if count:
            self._matchers[row].rollback(count)
        return count


class ThinkFirst:
    """Lets each row think, then keeps its answer within a grammar; see `qwenvl.decoding.decode.Constraint`.

    Parameters
    ----------
    answer : Constraint
        Of the answers.
    rows : int
    budget : int
        Most tokens of a thought; then it is closed.
    close : sequence of int
        What closes a thought: the closing marker's token, and those written after it.
    eos : sequence of int
        Tokens that may not come within a thought.
    """

    def __init__(self, answer: Constraint, rows: int, *, budget: int, close: Sequence[int], eos: Sequence[int]) -> None:
        self._answer = answer
        self._close, self._eos = tuple(close), tuple(eos)
        self.closed: set[int] = set()
        """Rows whose thought did not end by itself."""
        self._left = [budget] * rows  # tokens of the thought
        self._forced = [0] * rows  # how many tokens of `close` have been written

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Rule out what may not come next: the end within a thought, and all but its closing when it is due."""
        answering = []
        for index, row in enumerate(rows):
            written = self._forced[row]
            if written == len(self._close):
                answering.append(index)
            elif written or not self._left[row]:
                if not written:
                    self.closed.add(row)
                kept = logits[index, self._close[written]].clone()
                logits[index] = -torch.inf
                logits[index, self._close[written]] = kept
            else:
                logits[index, list(self._eos)] = -torch.inf
        if answering:
            part = logits[answering]
            self._answer.apply(part, [rows[index] for index in answering])
            logits[answering] = part

    def accept(self, row: int, token: int) -> bool:
        """Take note of a token; False where it may not come."""
        written = self._forced[row]
        if written == len(self._close):
            return self._answer.accept(row, token)
        if token == self._close[written]:
            self._forced[row] += 1
            return True
        if written or not self._left[row] or token in self._eos:
            return False
        self._left[row] -= 1
        return True

    def interrupt(self, row: int) -> bool:
        """Close a thought that goes in circles; False where the thought is over."""
        thinking = self._forced[row] == 0 and self._left[row] > 0
        self._left[row] = 0
        return thinking

    def back(self, row: int, most: int) -> int:
        """Take back up to `most` tokens of the answer; how many, or 0."""
        return self._answer.back(row, most)


def vocabulary_size(model: PreTrainedModel) -> int:
    """Width of a model's logits."""
    weight: torch.Tensor = model.get_output_embeddings().weight
    return weight.shape[0]
