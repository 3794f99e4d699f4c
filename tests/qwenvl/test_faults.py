"""Models that misbehave: each tile ends in the status that is true of it, and its neighbours are not touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from subjects import ASK, DETECT

from qwenvl.answer import Answer, Status
from qwenvl.decoding import decode as decoding
from qwenvl.engines import local
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
END = "<|im_end|>"
BOXES = [
    '{"bbox_2d": [10, 20, 30, 40], "label": "nucleus"}',
    '{"bbox_2d": [50, 60, 70, 80], "label": "nucleus"}',
    '{"bbox_2d": [90, 10, 99, 20], "label": "nucleus"}',
]
GOOD = f"[{BOXES[0]}, {BOXES[1]}]{END}"
FOREVER = f"[{', '.join(BOXES[:1] * 60)}"
CIRCLE = f"[{', '.join(BOXES * 30)}"
DRIFTING = ", ".join(f'{{"bbox_2d": [{x}, 5, {x + 3}, 9], "label": "nucleus"}}' for x in range(200))
EMPTY = f"[]{END}"
WORDS = "There is nothing new to say. " * 60


class Script:
    """Makes a model write given texts, one per row of the batch, as steps of `qwenvl.decoding.decode`.

    Where its thought is closed for it, it writes `after`.
    """

    def __init__(self, engine: LocalEngine, texts: Sequence[str], after: str) -> None:
        tokenizer = engine.checkpoint.tokenizer
        self._close = tokenizer("</think>\n\n", add_special_tokens=False)["input_ids"]
        self._after = tokenizer(after, add_special_tokens=False)["input_ids"]
        self._width = engine.checkpoint.model.get_output_embeddings().weight.shape[0]
        self._texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        self._rows = list(range(len(texts)))
        self._written: list[list[int]] = [[] for _ in texts]
        self.steps = 0

    def wishes(self) -> torch.Tensor:
        """Logits that want each text to go on; once something else was written, any letter."""
        logits = torch.zeros(len(self._rows), self._width)
        for index, row in enumerate(self._rows):
            text, written = self._texts[row], self._written[row]
            if text[: len(written)] == written:
                logits[index, text[len(written)] if len(written) < len(text) else 65] = 50.0
            elif written[-len(self._close) :] == self._close:
                self._texts[row] = written + self._after
                logits[index, self._after[0]] = 50.0
        return logits

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            self._written[row].append(token)
        return self.wishes()

    def back(self, row: int, count: int) -> None:
        del self._written[self._rows[row]][-count:]

    def keep(self, rows: torch.Tensor) -> None:
        self._rows = [self._rows[row] for row in rows.tolist()]


def scripted(
    monkeypatch: pytest.MonkeyPatch,
    engine: LocalEngine,
    texts: Sequence[str],
    request: Request,
    tile: Any,
    after: str = GOOD,
) -> tuple[list[Answer], Script]:
    """The engine's answers about equal tiles of which its model says `texts`."""
    script = Script(engine, texts, after)
    real = local.prefill

    def prefill(*arguments: Any) -> Any:
        state = real(*arguments)
        state.logits = script.wishes()
        return state

    monkeypatch.setattr(local, "prefill", prefill)
    for name in ("LightSteps", "TransformersSteps"):
        monkeypatch.setattr(decoding, name, lambda *_: script)
    return engine.answer([tile] * len(texts), request), script


@pytest.mark.parametrize("constrained", [True, False])
def test_tiles_that_never_end(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, constrained: bool
) -> None:
    engine = LocalEngine(LocalEngine.load(tiny("Qwen3-VL"), device="cpu").checkpoint, constrained=constrained)
    request = Request(task=Task.DETECT, labels=("nucleus",), max_objects=90, generation={"max_new_tokens": 2000})
    texts = [GOOD, FOREVER, EMPTY, CIRCLE, f"[{DRIFTING}]{END}"]
    answers, script = scripted(monkeypatch, engine, texts, request, pictures[0])
    good, forever, empty, circle, drifting = answers
    assert (good.status, len(good.objects), good.finish_reason) == (Status.OK, 2, "stop")
    assert (empty.status, empty.objects) == (Status.EMPTY, ())
    assert (forever.status, len(forever.objects), forever.finish_reason) == (Status.TRUNCATED, 1, "loop")
    assert "loop" in forever.notes
    assert forever.new_tokens < 5 * len(BOXES[0])
    assert (circle.status, len(circle.objects), circle.finish_reason) == (Status.TRUNCATED, 3, "loop")
    assert circle.new_tokens < 8 * len(BOXES[0])
    assert drifting.status is Status.TRUNCATED
    assert drifting.finish_reason == "length"
    assert 30 < len(drifting.objects) < 90
    assert script.steps == 1999, "as long as the longest needs, and no longer"


def test_words_that_never_end(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    request = ASK.model_copy(update={"generation": ASK.generation.model_copy(update={"max_new_tokens": 900})})
    (spoken, endless), script = scripted(monkeypatch, engine, [f"One nucleus.{END}", WORDS], request, pictures[0])
    assert (spoken.status, spoken.text) == (Status.OK, "One nucleus.")
    assert (endless.status, endless.finish_reason) == (Status.TRUNCATED, "loop")
    assert str(endless.text).startswith("There is nothing new to say.")
    assert script.steps < 250


@pytest.mark.parametrize(
    ("after", "status", "found"), [(GOOD, Status.OK, 2), (EMPTY, Status.TRUNCATED, 0), (FOREVER, Status.TRUNCATED, 1)]
)
@pytest.mark.parametrize("thought", ["I wonder about the next cell. " * 90, "".join(map(str, range(900)))])
def test_a_thought_that_never_closes(
    tiny: Tiny,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    thought: str,
    after: str,
    status: Status,
    found: int,
) -> None:
    """Under a grammar it is closed for the model, which then answers; but that there is nothing does not count."""
    engine = LocalEngine.load(tiny("Qwen3-VL-Thinking"), device="cpu")
    request = DETECT.model_copy(update={"generation": DETECT.generation.model_copy(update={"max_new_tokens": 700})})
    texts = [f"One cell.\n</think>\n\n{GOOD}", thought, f"None.\n</think>\n\n{EMPTY}"]
    (closed, endless, none), _ = scripted(monkeypatch, engine, texts, request, pictures[0], after)
    assert (closed.status, closed.reasoning, len(closed.objects)) == (Status.OK, "One cell.", 2)
    assert (none.status, none.notes, closed.notes) == (Status.EMPTY, (), ())
    assert "thought-closed" in endless.notes
    assert (endless.status, len(endless.objects)) == (status, found)
    assert endless.reasoning is not None
    assert thought.startswith(endless.reasoning[:200])
    assert endless.new_tokens <= 700


@pytest.mark.parametrize("thought", ["I wonder about the next cell. " * 90, "".join(map(str, range(900)))])
def test_a_thought_that_never_closes_before_free_words(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, thought: str
) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL-Thinking"), device="cpu")
    words = ASK.model_copy(update={"generation": ASK.generation.model_copy(update={"max_new_tokens": 600})})
    texts = [f"One cell.\n</think>\n\nA nucleus.{END}", thought]
    (closed, endless), _ = scripted(monkeypatch, engine, texts, words, pictures[0])
    assert (closed.status, closed.text) == (Status.OK, "A nucleus.")
    assert (endless.status, endless.text) == (Status.TRUNCATED, None)
    assert "thinking" in endless.notes
    assert endless.finish_reason == ("loop" if "wonder" in thought else "length")
