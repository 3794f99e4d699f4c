"""The compiled decoding step: the tokens of the eager one, and a recorded reason where it cannot be had."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from subjects import EVERY, mixed, plain

from qwenvl.engines.local import LocalEngine
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL"])
def test_the_same_answers(tiny: Tiny, pictures: Pictures, family: str) -> None:
    """Traced as one graph with a static cache: padded rows, rows that end early, a second batch on the same cache."""
    eager = LocalEngine.load(tiny(family), device="cpu")
    engine = LocalEngine.load(tiny(family), device="cpu", compiled="eager")
    assert engine.info.processor["decoding"] == "compiled"
    assert engine.info.processor["compiled"] == "yes"
    items = mixed(pictures)
    long = Request(task=Task.ASK, prompt="What is this?", generation={"max_new_tokens": 60})
    for request in (long, EVERY[0], EVERY[4], long):
        ours, theirs = engine.answer(items, request), eager.answer(items, request)
        assert [plain(answer)[:6] for answer in ours] == [plain(answer)[:6] for answer in theirs]


def broken(graph: Any, inputs: Any) -> Any:
    """A backend of torch.compile that cannot do it."""
    raise RuntimeError("no such instruction\nand more")


def test_a_compiler_that_fails_is_recorded(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: real(function, backend=broken, fullgraph=True))
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu", compiled=True)
    assert str(engine.info.processor["compiled"]).startswith("no (")
    assert "no such instruction" in str(engine.info.processor["compiled"])
    assert engine.info.processor["decoding"] == "light"
    expected = LocalEngine.load(tiny("Qwen3-VL"), device="cpu").answer(pictures, EVERY[0])
    assert [plain(answer) for answer in engine.answer(pictures, EVERY[0])] == [plain(answer) for answer in expected]


def test_a_shape_that_cannot_be_compiled_is_noted(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step worked when the engine was made, and fails at a later batch, before its first token is read."""
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu", compiled="eager")
    step = engine._compiled
    assert step is not None

    def fail(*_: Any) -> Any:
        raise RuntimeError("hit the recompile limit")

    monkeypatch.setattr(step, "run", fail)
    answers = engine.answer(pictures, EVERY[0])
    assert all("uncompiled" in answer.notes for answer in answers)
    assert step.reason == "RuntimeError: hit the recompile limit"
    expected = LocalEngine.load(tiny("Qwen3-VL"), device="cpu").answer(pictures, EVERY[0])
    assert [answer.raw for answer in answers] == [answer.raw for answer in expected]


@pytest.mark.parametrize(("family", "reason"), [("Qwen3.5", "linear_attention"), ("Qwen3-VL-MoE", "experts")])
def test_models_that_cannot_say_why(tiny: Tiny, pictures: Pictures, family: str, reason: str) -> None:
    engine = LocalEngine.load(tiny(family), device="cpu", compiled=True)
    assert reason in str(engine.info.processor["compiled"])
    assert "compiled" not in LocalEngine(engine.checkpoint).info.processor
    assert engine.answer(pictures[:1], EVERY[2])[0].scores
