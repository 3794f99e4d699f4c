"""Several questions per look give the answers of separate calls, and look only once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from subjects import ASK, CLASSIFY, DETECT, EVERY, SCORE, mixed, pair, plain

from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.engines import local
from qwenvl.engines.fake import FakeEngine
from qwenvl.engines.local import LocalEngine
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
SECOND = Request(task=Task.SCORE, prompt="Does this picture show any necrosis at all?")
OTHER_SYSTEM = Request(task=Task.SCORE, prompt="Is there a nucleus?", system_prompt="Be strict.")


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_answers_of_separate_calls(tiny: Tiny, pictures: Pictures, family: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu")
    requests = [*EVERY, OTHER_SYSTEM, SECOND]
    for items in (list(pictures), mixed(pictures), [pair(pictures[:2]), pair(pictures[2:])]):
        together = engine.answer_many(items, requests)
        for request, answers in zip(requests, together, strict=True):
            apart = engine.answer(items, request)
            for ours, theirs in zip(answers, apart, strict=True):
                assert plain(ours) == plain(theirs)
                assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
                assert ours.seconds >= 0


@pytest.mark.parametrize(
    ("requests", "beginnings"), [([SCORE, SECOND, CLASSIFY, DETECT, ASK], 1), ([SCORE, OTHER_SYSTEM, SECOND], 2)]
)
def test_each_picture_is_looked_at_once(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, requests: list[Request], beginnings: int
) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    seen: dict[str, list[int]] = {"picture_features": [], "prefill": []}
    for name, calls in seen.items():
        real = getattr(local, name)

        def counted(*arguments: Any, real: Any = real, calls: list[int] = calls) -> Any:
            calls.append(1)
            return real(*arguments)

        monkeypatch.setattr(local, name, counted)
    engine.answer_many(pictures, requests)
    assert (len(seen["picture_features"]), len(seen["prefill"])) == (1, beginnings)


def test_a_fork_is_not_touched_by_what_others_write(tiny: Tiny, pictures: Pictures) -> None:
    """Writing first, with transformers' own step: the rows it drops must not be missing for those that follow."""
    engine = LocalEngine.load(tiny("Qwen3-VL-MoE"), device="cpu")
    assert engine._language is None
    long = Request(task=Task.ASK, prompt="What is this?", generation={"max_new_tokens": 40})
    order = [long, SCORE, DETECT, SECOND]
    for request, answers in zip(order, engine.answer_many(pictures, order), strict=True):
        apart = engine.answer(pictures, request)
        assert [plain(answer) for answer in answers] == [plain(answer) for answer in apart]
        for ours, theirs in zip(answers, apart, strict=True):
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_other_engines_ask_one_after_the_other(pictures: Pictures) -> None:
    engine = FakeEngine(boxes=3)
    assert engine.answer_many(pictures, [DETECT, SCORE]) == [
        engine.answer(pictures, DETECT),
        engine.answer(pictures, SCORE),
    ]
    assert engine.answer_many(pictures, []) == []
