"""The remote engine and a server that fails: no tile is lost, and the key shows nowhere."""

from __future__ import annotations

import time
import traceback
from typing import Any

import numpy as np
import pytest
from remote_cases import DETECT, Connect, Pictures, boxes
from server import STUB, ServerProcess

from qwenvl.answer import Status
from qwenvl.errors import EngineError, RequestError
from qwenvl.request import Request, Task


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ("drop", {}), ("half", {}), ("delay", {"timeout": 0.4}), ("500", {}), ("503", {}), ("408", {}), ("429", {}),
        ("garbage", {}), ("cut", {}), ("odd", {}), ("abort", {}),
    ],
)  # fmt: skip
def test_no_tile_is_lost_to_a_passing_fault(
    fault: str, settings: dict[str, Any], server: ServerProcess, many: Pictures, connect: Connect
) -> None:
    engine = connect(concurrency=4, **settings)
    calm = boxes(engine.answer(many, DETECT))
    server.control(plan=[None, fault, fault, None, fault, fault, None, fault])
    answers = engine.answer(many, DETECT)
    assert [answer.status for answer in answers] == [Status.OK] * len(many)
    assert boxes(answers) == calm
    seen = server.stats()
    assert (seen["answered"], len(seen["asked"])) == (len(many), len(many) + 5)
    assert seen["most"] <= 4 + (5 if fault == "delay" else 0)  # the server goes on with what nobody waits for


def test_retry_after_is_honoured(server: ServerProcess, many: Pictures, connect: Connect) -> None:
    engine = connect()
    server.control(plan=["429"] * 3)
    begun = time.monotonic()
    assert engine.answer(many[:1], DETECT)[0].status is Status.OK
    assert time.monotonic() - begun >= 0.9  # 3 x 0.3 s; without it some hundredths


@pytest.mark.parametrize(
    ("fault", "settings", "words"),
    [
        ("drop", {}, "disconnected"), ("delay", {"timeout": 0.2}, "no response in time"),
        ("500", {}, "status 500: planted fault"), ("429", {}, "status 429: slow down"),
        ("garbage", {}, "cannot be read"), ("odd", {}, "not a chat completion"),
    ],
)  # fmt: skip
def test_a_lasting_fault_fails_one_picture_alone(
    fault: str,
    settings: dict[str, Any],
    words: str,
    server: ServerProcess,
    pictures: Pictures,
    connect: Connect,
) -> None:
    server.control(poison=[300, 100, fault])
    answers = connect(attempts=2, **settings).answer(pictures, DETECT)
    assert [answer.status for answer in answers] == [Status.OK, Status.OK, Status.FAILED, Status.OK]
    assert answers[2].finish_reason == "error"
    assert "asked 2 times" in str(answers[2].error)
    assert words in str(answers[2].error)
    assert "picture 2" in str(answers[2].error)


def test_bad_pictures_fail_alone(many: Pictures, connect: Connect) -> None:
    bad: list[Any] = [np.zeros((8, 8, 3)), many[0], np.zeros((1, 500, 3), np.uint8), None]
    answers = connect().answer(bad, DETECT)
    assert [answer.status is Status.FAILED for answer in answers] == [True, False, True, True]
    assert "dtype uint8" in str(answers[0].error)
    assert connect().answer([], DETECT) == []
    with pytest.raises(RequestError, match="image_pad"):
        connect().answer(many[:1], Request(task=Task.ASK, prompt="<|image_pad|>?"))


def test_a_server_that_never_answers_stops_the_run(
    server: ServerProcess, many: Pictures, connect: Connect
) -> None:
    engine = connect(attempts=1)
    server.control(plan=["503"] * 100)
    for _ in range(3):
        assert {answer.status for answer in engine.answer(many, DETECT)} == {Status.FAILED}
    with pytest.raises(EngineError, match="The last 80 questions got no answer"):
        engine.answer(many, DETECT)


def test_a_server_that_dies_in_the_middle(many: Pictures, connect: Connect) -> None:
    process = ServerProcess({STUB: None})
    try:
        engine = connect(url=process.url, concurrency=2, attempts=3)
        engine.answer(many, DETECT)
        process.control(plan=[None] * 7 + ["die"])
        # No tile fails for it: what was under way is asked again when the server is back.
        with pytest.raises(EngineError, match=r"server is gone.*asked"):
            engine.answer(many, DETECT)
    finally:
        process.stop()
    with pytest.raises(EngineError, match="Check that the server runs"):
        connect(url=process.url, attempts=2)


def test_concurrency_is_bounded_and_order_kept(
    server: ServerProcess, many: Pictures, connect: Connect
) -> None:
    calm = boxes(connect(concurrency=1).answer(many, DETECT))
    assert server.stats()["most"] == 1
    assert len(set(calm)) == len(many)
    server.control(slow=0.03)
    engine = connect(concurrency=5)
    assert boxes(engine.answer(many, DETECT)) == calm
    assert boxes(engine.answer(many[::-1], DETECT)) == calm[::-1]
    seen = server.stats()
    assert 2 <= seen["most"] <= 5
    assert seen["connections"] <= 5 + 2  # kept alive; stats and control have their own
    assert engine.batch_size(DETECT) == 20


def test_refusals_stop_with_the_servers_words(
    server: ServerProcess, many: Pictures, connect: Connect
) -> None:
    engine = connect()
    with pytest.raises(EngineError, match=r"status 404: The model `other` does not exist"):
        connect("other", family="Qwen3-VL").answer(many, DETECT)
    server.control(plan=["400"])
    with pytest.raises(EngineError, match="status 400: planted fault"):
        engine.answer(many, DETECT)
    assert boxes(engine.answer(many[:2], DETECT))[0] is not None  # still usable
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.answer(many, DETECT)


def test_the_key_comes_from_the_environment_and_shows_nowhere(
    server: ServerProcess, many: Pictures, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    secret = "sk-very-secret-123"
    server.control(key=secret)
    with pytest.raises(EngineError, match="status 401"):
        connect()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-456")
    with pytest.raises(EngineError, match=r"wrong key: Bearer \*\*\*") as wrong:
        connect()
    assert "sk-wrong" not in "".join(traceback.format_exception(wrong.value))
    monkeypatch.setenv("QWENVL_API_KEY", f" {secret}\n")
    caplog.set_level("DEBUG")
    engine = connect(attempts=1)
    assert engine.answer(many[:2], DETECT)[1].status is Status.OK
    server.control(key=secret, plan=["500"])
    failed = engine.answer(many[:1], DETECT)[0]
    assert "you sent Bearer ***" in str(failed.error)
    server.control(key=secret, plan=["400"])
    with pytest.raises(EngineError, match=r"Bearer \*\*\*") as refused:
        engine.answer(many[:1], DETECT)
    shown = [str(failed), repr(engine.info), repr(vars(engine)), caplog.text]
    shown.append("".join(traceback.format_exception(refused.value)))
    assert not any(secret in text for text in shown)
    monkeypatch.setenv("QWENVL_API_KEY", "sk-\x07worse")
    with pytest.raises(EngineError, match="characters that no HTTP header can carry") as bad:
        connect()
    assert "worse" not in str(bad.value)
