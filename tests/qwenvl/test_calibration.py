"""Calibration: planted distortions are found, and a calibration serves no other model or question."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from subjects import CLASSIFY, DETECT, SCORE

from qwenvl.answer import Answer, Status
from qwenvl.engines.base import Engine, ModelInfo
from qwenvl.engines.fake import FakeEngine
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import RequestError
from qwenvl.request import Request, Task
from qwenvl.scoring.calibrating import calibrate, reliability
from qwenvl.scoring.calibration import Calibration

Pictures = Sequence[NDArray[np.uint8]]
LABELS = Request(task=Task.CLASSIFY, labels=("tumour", "stroma", "fat"))


class Planted(Engine):
    """Says what it is told about each picture, which is a number."""

    def __init__(self, scores: Sequence[dict[str, float]]) -> None:
        self.info = ModelInfo("planted", "none", "sha256:planted")
        self._scores = scores

    def answer(self, pictures: Sequence[Any], request: Request) -> list[Answer]:
        return [
            Answer(Status.OK, scores=self._scores[number]) if number % 97 else Answer.failure("planted")
            for number in pictures
        ]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = np.exp(logits - logits.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


def plain_calibration(request: Request, fingerprint: str, **changes: Any) -> Calibration:
    words = request.labels or ("yes", "no")
    fields = {
        "model": fingerprint,
        "model_name": "a-model",
        "question": request.question,
        "words": words,
        "temperature": 2.0,
        "bias": (0.0,) * len(words),
        "tiles": 50,
        "ece_before": 0.2,
        "ece_after": 0.05,
    }
    return Calibration(**(fields | changes))


def test_a_planted_distortion_is_found() -> None:
    """An overconfident model that says yes too readily: its logits are 2.5 times too far out, and shifted by 2."""
    rng = np.random.default_rng(4)
    honest = rng.normal(0, 1.5, 6000)
    truth = rng.random(6000) < 1 / (1 + np.exp(-honest))
    said = 1 / (1 + np.exp(-(2.5 * honest + 2)))
    engine = Planted([{"yes": float(p)} for p in said])
    fitted, before, after = calibrate(engine, range(6000), truth.tolist(), SCORE)  # type: ignore[arg-type]
    assert fitted.temperature == pytest.approx(2.5, rel=0.06)
    np.testing.assert_allclose(fitted.bias, (-2 / 2.5, 0), atol=0.08)
    assert fitted.tiles == 6000 - 62, "failed tiles are left out"
    assert before.ece > 0.15
    assert after.ece < 0.03
    assert (fitted.ece_before, fitted.ece_after) == (before.ece, after.ece)
    mended = [fitted.apply({"yes": float(p)})["yes"] for p in said]
    assert np.array_equal(np.argsort(mended, kind="stable"), np.argsort(said, kind="stable"))
    assert "ECE" in str(after)


def test_planted_distortions_of_classes() -> None:
    rng = np.random.default_rng(5)
    honest = rng.normal(0, 2, (5000, 3))
    truth = [int(rng.choice(3, p=p)) for p in softmax(honest)]
    said = softmax(3 * honest + np.array([2.0, 0.0, 1.0]))
    engine = Planted([dict(zip(LABELS.labels, map(float, row), strict=True)) for row in said])
    words = [LABELS.labels[number] for number in truth]
    fitted, before, after = calibrate(engine, range(5000), words, LABELS)  # type: ignore[arg-type]
    assert fitted.temperature == pytest.approx(3, rel=0.08)
    np.testing.assert_allclose(fitted.bias, (-1 / 3, 1 / 3, 0), atol=0.12)
    assert before.ece > 0.1
    assert after.ece < 0.03


def test_known_numbers() -> None:
    half = plain_calibration(SCORE, "m")
    assert half.apply({"yes": 0.9}) == {"yes": pytest.approx(0.75)}  # odds 9 to 1 become 3 to 1
    assert half.apply({"yes": 0.5}) == {"yes": pytest.approx(0.5)}
    assert half.apply({"yes": 1.0})["yes"] == pytest.approx(0.999, abs=0.001)
    shifted = plain_calibration(SCORE, "m", temperature=1.0, bias=(float(np.log(3)), 0.0))
    assert shifted.apply({"yes": 0.5}) == {"yes": pytest.approx(0.75)}
    three = plain_calibration(LABELS, "m", temperature=1.0, bias=(0.0, float(np.log(4)), 0.0))
    assert three.apply({"tumour": 0.5, "stroma": 0.25, "fat": 0.25}) == pytest.approx(
        {"tumour": 2 / 7, "stroma": 4 / 7, "fat": 1 / 7}
    )
    answer = three.calibrated(Answer(Status.OK, text="tumour", scores={"tumour": 0.5, "stroma": 0.25, "fat": 0.25}))
    assert (answer.text, answer.notes) == ("stroma", ("calibrated",))


def test_reliability_by_hand() -> None:
    found = reliability([0.05, 0.05, 0.95, 0.95, 0.95, 1.0], [False, True, True, True, True, False])
    assert [row[2] for row in found.bins] == [2, 4]
    np.testing.assert_allclose(found.bins, [(0.0, 0.1, 2, 0.05, 0.5), (0.9, 1.0, 4, 0.9625, 0.75)])
    assert found.ece == pytest.approx((2 * 0.45 + 4 * 0.2125) / 6)


def test_engines_apply_it_and_refuse_anothers(tiny: Callable[[str], Path], pictures: Pictures, tmp_path: Path) -> None:
    local = LocalEngine.load(tiny("Qwen3-VL"), device="cpu")
    for engine in (local, FakeEngine()):
        for request in (SCORE, CLASSIFY):
            fitted = plain_calibration(request, engine.info.fingerprint)
            path = fitted.save(tmp_path / "calibration.json")
            assert Calibration.load(path) == fitted
            asked = request.model_copy(update={"calibration": Calibration.load(path)})
            assert asked.hash != request.hash
            assert Request.model_validate_json(asked.model_dump_json()) == asked
            for ours, theirs in zip(engine.answer(pictures, asked), engine.answer(pictures, request), strict=True):
                assert ours.scores == pytest.approx(fitted.apply(theirs.scores))
                assert ours.notes == ("calibrated",)
                assert ours.text == theirs.text
            other = asked.model_copy(update={"calibration": fitted.model_copy(update={"model": "sha256:other"})})
            with pytest.raises(RequestError, match="another model"):
                engine.answer(pictures, other)
            with pytest.raises(RequestError, match="another model"):
                engine.answer_many(pictures, [request, other])
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("change", [{"prompt": "Is there fat?"}, {"mpp": 1.0}, {"tile_size": 224}])
def test_another_question_is_refused(change: dict[str, Any]) -> None:
    fitted = plain_calibration(SCORE, "m")
    Request(**(SCORE.model_dump() | {"calibration": fitted}))
    with pytest.raises(ValidationError, match="another question"):
        Request(**(SCORE.model_dump() | {"calibration": fitted} | change))
    with pytest.raises(ValidationError, match="no probabilities"):
        Request(**(DETECT.model_dump() | {"calibration": fitted}))


def test_words_of_a_server_are_no_probabilities(server: Any, pictures: Pictures, connect: Any) -> None:
    engine = connect()
    server.control(say={"content": "Yes."}, ignore=["logprobs"])
    asked = SCORE.model_copy(update={"calibration": plain_calibration(SCORE, engine.info.fingerprint)})
    answer = engine.answer(pictures[:1], asked)[0]
    assert answer.scores == {"yes": 1.0}
    assert answer.notes[-2:] == ("text", "uncalibrated")
    server.control(say={"content": "Yes", "tops": [["Yes", {"Yes": 0.9, "No": 0.09, "a": 1e-9}]]})
    answer = connect().answer(pictures[:1], asked)[0]
    assert answer.scores == {"yes": pytest.approx(np.sqrt(10) / (1 + np.sqrt(10)), abs=1e-3)}


def test_what_cannot_be_fitted() -> None:
    engine = FakeEngine()
    tiles = [np.full((32, 32, 3), number, np.uint8) for number in range(24)]
    mixed = [number % 2 == 0 for number in range(24)]
    cases: list[tuple[Any, Any, Request, str]] = [
        (tiles[:19], mixed[:19], SCORE, "at least 20"),
        (tiles, [True] * 24, SCORE, "no tile is no"),
        (tiles, ["maybe"] * 24, SCORE, "truth names maybe"),
        (tiles, mixed[:5], SCORE, "24 tiles and 5 truths"),
        (tiles, mixed, DETECT, "task score or classify"),
    ]
    for items, truth, request, message in cases:
        with pytest.raises(RequestError, match=message):
            calibrate(engine, items, truth, request)
    fitted, *_ = calibrate(engine, tiles, mixed, SCORE)
    assert fitted.model == engine.info.fingerprint
    with pytest.raises(RequestError, match="no calibration"):
        Calibration.load("nowhere.json")
