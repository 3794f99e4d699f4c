"""The in-process engine end to end on tiny models, and with planted faults."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from qwenvl.answer import OUT_OF_MEMORY, Answer, Status
from qwenvl.checkpoints.testing import TINY_FAMILIES
from qwenvl.decoding.decode import Decoded
from qwenvl.engines import local
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import RequestError
from qwenvl.request import Request, Task

Tiny = Callable[[str], Path]
Pictures = Sequence[NDArray[np.uint8]]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "grade": {"enum": ["low", "high"]}},
    "required": ["n", "grade"],
    "additionalProperties": False,
}
REQUESTS = [
    Request(task=Task.DETECT, labels=("nucleus",), generation={"max_new_tokens": 12}),
    Request(task=Task.ASK, prompt="What is this?", generation={"max_new_tokens": 12}),
    Request(task=Task.SCORE, prompt="Is there a nucleus?"),
    Request(task=Task.CLASSIFY, labels=("tumour", "stroma", "tumour edge")),
    Request(task=Task.EXTRACT, output_schema=SCHEMA, generation={"max_new_tokens": 40}),
]


def plain(answer: Answer) -> tuple[Any, ...]:
    return (answer.status, answer.raw, answer.finish_reason, answer.new_tokens, answer.prompt_tokens, answer.value)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_batch_size_changes_no_answer(tiny: Tiny, pictures: Pictures, family: str) -> None:
    engine = LocalEngine.load(tiny(family))
    one_by_one = LocalEngine(engine.checkpoint, token_budget=1)
    for request in REQUESTS:
        together = engine.answer(pictures, request)
        alone = one_by_one.answer(pictures, request)
        assert [plain(answer) for answer in together] == [plain(answer) for answer in alone]
        for ours, theirs in zip(together, alone, strict=True):
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
        assert all(answer.seconds > 0 for answer in together)
        assert together[0].prompt_tokens == together[1].prompt_tokens
    extracted = engine.answer(pictures, REQUESTS[-1])
    if "Thinking" not in family:
        for answer in extracted:
            assert answer.status is Status.OK
            assert set(answer.value) == {"n", "grade"}
            assert json.loads(answer.raw) == answer.value


def test_score_and_classify(tiny: Tiny, pictures: Pictures) -> None:
    engine = LocalEngine.load(tiny("Qwen2.5-VL"))
    for answer in engine.answer(pictures, REQUESTS[2]):
        assert answer.status is Status.OK
        assert set(answer.scores) == {"yes"}
        assert 0 < answer.scores["yes"] < 1
        assert answer.new_tokens == 0
    for answer in engine.answer(pictures, REQUESTS[3]):
        assert list(answer.scores) == ["tumour", "stroma", "tumour edge"]
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert answer.text == max(answer.scores, key=answer.scores.__getitem__)


def test_one_bad_picture_does_not_touch_the_others(tiny: Tiny, pictures: Pictures) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"))
    bad: list[Any] = [np.zeros((8, 8, 3)), np.zeros((1, 500, 3), np.uint8), None]
    answers = engine.answer([bad[0], pictures[0], bad[1], pictures[1], bad[2]], REQUESTS[2])
    assert [answer.status for answer in answers] == [Status.FAILED, Status.OK, Status.FAILED, Status.OK, Status.FAILED]
    assert "picture 0" in str(answers[0].error)
    assert "dtype uint8" in str(answers[0].error)
    good = engine.answer(pictures[:2], REQUESTS[2])
    assert [answers[1].scores, answers[3].scores] == [pytest.approx(answer.scores) for answer in good]
    assert engine.answer([], REQUESTS[0]) == []


def test_out_of_memory_halves_the_batch(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"))
    expected = engine.answer([pictures[0]] * 5, REQUESTS[0])
    sizes: list[int] = []
    real = local.prefill

    def scarce(model: Any, batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch.lengths))
        if len(batch.lengths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch, *rest)

    monkeypatch.setattr(local, "prefill", scarce)
    answers = engine.answer([pictures[0]] * 5, REQUESTS[0])
    assert [plain(answer) for answer in answers] == [plain(answer) for answer in expected]
    assert sizes == [5, 2, 3, 1, 2]
    sizes.clear()
    engine.answer([pictures[0]] * 5, REQUESTS[0])
    assert max(sizes) <= 2  # learnt


def test_a_picture_that_never_fits_fails_alone(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"))
    real = local.prefill

    def scarce(model: Any, batch: Any, *rest: Any) -> Any:
        if max(batch.patches.image_grid_thw.prod(1)) > 196:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return real(model, batch, *rest)

    monkeypatch.setattr(local, "prefill", scarce)
    answers = engine.answer([pictures[0], pictures[3]], REQUESTS[2])
    assert answers[0].status is Status.OK
    assert answers[1].status is Status.FAILED
    assert "use smaller tiles" in str(answers[1].error)
    assert answers[1].notes == (OUT_OF_MEMORY,)


def test_memory_that_runs_out_at_random_loses_no_tile(
    tiny: Tiny, many: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call in three fails, in the tower, in the prompt or while writing; a tile alone may fail for good."""
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    requests = [REQUESTS[0], REQUESTS[2]]
    expected = engine.answer_many(many, requests)
    rng = np.random.default_rng(5)
    faults: list[str] = []

    def plant(name: str) -> None:
        real = getattr(local, name)

        def scarce(*arguments: Any, **settings: Any) -> Any:
            if rng.random() < 1 / 3:
                faults.append(name)
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(*arguments, **settings)

        monkeypatch.setattr(local, name, scarce)

    for name in ("picture_features", "prefill", "decode"):
        plant(name)
    answered = lost = 0
    for _ in range(8):
        given = engine.answer_many(many, requests)
        for ours, theirs in zip(given, expected, strict=True):
            for answer, right in zip(ours, theirs, strict=True):
                if answer.status is Status.FAILED:
                    lost += 1
                    assert answer.notes == (OUT_OF_MEMORY,)
                    assert "out of memory" in str(answer.error)
                else:
                    answered += 1
                    assert plain(answer) == plain(right)
                    assert answer.scores == pytest.approx(right.scores, abs=1e-5)
    assert set(faults) == {"picture_features", "prefill", "decode"}
    assert answered + lost == 8 * 2 * len(many)
    assert answered > 0 < lost, "some tiles met the fault alone, and the others are right"


def test_other_errors_are_not_swallowed(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"))

    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(local, "prefill", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        engine.answer(pictures, REQUESTS[0])


def test_boxes_come_back_in_tile_px_with_scores(
    tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted text in each coordinate space; the third picture (100 x 300) is resized."""
    text = '[{"bbox_2d": [28, 28, 112, 56], "label": "nucleus"}, {"bbox_2d": [0, 0, 14, 14], "label": "nucleus"}]'
    for family, expected in [
        ("Qwen2.5-VL", (28 * 300 / 308, 28 * 100 / 112, 112 * 300 / 308, 56 * 100 / 112)),
        ("Qwen3-VL", (8.4, 2.8, 33.6, 5.6)),
    ]:
        engine = LocalEngine.load(tiny(family))
        tokens = engine.checkpoint.tokenizer(text)["input_ids"]
        monkeypatch.setattr(
            local,
            "decode",
            lambda *_, **__: [Decoded(tokens, [math.log(0.5)] * len(tokens), "stop")],  # noqa: B023
        )
        answer = engine.answer([pictures[2]], REQUESTS[0])[0]
        assert answer.status is Status.OK
        assert [item.label for item in answer.objects] == ["nucleus", "nucleus"]
        assert answer.objects[0].box == pytest.approx(expected)
        # Nothing is known of other numbers, and the digits of each number are one half each.
        assert [item.score for item in answer.objects] == [
            pytest.approx(0.5 ** ((2 + 2 + 3 + 2) / 4)),
            pytest.approx(0.5 ** ((1 + 1 + 2 + 2) / 4)),
        ]


def test_thinking_is_cut_off(tiny: Tiny, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL-Thinking"))
    text = 'There may be [1] or {"bbox_2d"...\n</think>\n\n[{"bbox_2d": [0, 0, 500, 500], "label": "nucleus"}]'
    tokens = engine.checkpoint.tokenizer(text)["input_ids"]
    chances = [math.log(0.25)] * len(tokens)
    monkeypatch.setattr(local, "decode", lambda *_, **__: [Decoded(tokens, chances, "stop")])
    answer = engine.answer([pictures[0]], REQUESTS[0])[0]
    assert answer.status is Status.OK
    assert answer.objects[0].box == pytest.approx((0, 0, 112, 112))
    assert "There may be" in str(answer.reasoning)


def test_bad_schema(tiny: Tiny, pictures: Pictures) -> None:
    """A request refuses such a schema; one that comes another way is refused by the engine."""
    engine = LocalEngine.load(tiny("Qwen3-VL"))
    bad = {"$ref": "#/nothing/here"}
    with pytest.raises(ValidationError, match="which is not in it"):
        Request(task=Task.EXTRACT, output_schema=bad)
    request = Request(task=Task.EXTRACT, output_schema={"type": "object"}).model_copy(update={"output_schema": bad})
    with pytest.raises(RequestError):
        engine.answer(pictures, request)


def test_batch_size_follows_the_tile(tiny: Tiny) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    small, large = (
        engine.batch_size(Request(task=Task.DETECT, labels=("nucleus",), tile_size=size, overlap=0))
        for size in (64, 448)
    )
    assert small > large >= 2


def test_every_answer_is_repeatable(tiny: Tiny, pictures: Pictures) -> None:
    request = REQUESTS[0].model_copy(
        update={"generation": REQUESTS[0].generation.model_copy(update={"temperature": 1.0})}
    )
    first, second = (LocalEngine.load(tiny("Qwen3-VL")).answer(pictures, request) for _ in range(2))
    assert [plain(answer) for answer in first] == [plain(answer) for answer in second]


def test_closing_lets_go_of_the_model(tiny: Tiny) -> None:
    engine = LocalEngine.load(tiny("Qwen3-VL"))
    engine.close()
    assert not hasattr(engine, "checkpoint")
