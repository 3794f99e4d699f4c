"""The remote engine and a server that fails: no tile is lost, and the key shows nowhere."""

from __future__ import annotations

import re
import time
import traceback
from typing import Any

import numpy as np
import pytest
from remote_cases import ASK, DETECT, Connect, Pictures, boxes
from server import STUB, ServerProcess

from qwenvl.answer import Status
from qwenvl.engines.server.faults import Case, case_of
from qwenvl.errors import EngineError, RequestError, ServerError
from qwenvl.request import Request, Task
from qwenvl.subject import Subject


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ("drop", {}),
        ("half", {}),
        ("delay", {"timeout": 0.4}),
        ("500", {}),
        ("503", {}),
        ("408", {}),
        ("429", {}),
        ("garbage", {}),
        ("cut", {}),
        ("odd", {}),
        ("abort", {}),
    ],
)
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


@pytest.mark.parametrize(
    ("status", "words", "wait", "case"),
    [
        (0, "not a chat completion", False, Case.FAILS),
        (0, "insufficient_quota", False, Case.QUOTA),
        (302, "", False, Case.MODEL),
        (400, "the image is too large", False, Case.REFUSED),
        (400, '{"code": "Arrearage"}', False, Case.QUOTA),
        (403, "Your credit balance is too low", False, Case.QUOTA),
        (400, "model not found", False, Case.REFUSED),
        (418, "", False, Case.REFUSED),
        (425, "", False, Case.BUSY),
        (429, "Rate limit reached for requests", True, Case.BUSY),
        (429, "", False, Case.BUSY),
        (429, "You exceeded your current quota, please check your plan and billing details.", False, Case.QUOTA),
        (429, "You exceeded your current quota, please check your plan and billing details.", True, Case.BUSY),
        (500, "", False, Case.FAILS),
        (500, "余额不足", False, Case.QUOTA),
        (501, "", False, Case.FAILS),
        (529, "", False, Case.BUSY),
        (599, "", False, Case.FAILS),
    ],
)
def test_whose_fault_it_is(status: int, words: str, wait: bool, case: Case) -> None:
    assert case_of(status, words, wait=wait) is case


def test_retry_after_is_honoured(server: ServerProcess, many: Pictures, connect: Connect) -> None:
    engine = connect()
    server.control(plan=["429"] * 3)
    begun = time.monotonic()
    assert engine.answer(many[:1], DETECT)[0].status is Status.OK
    assert time.monotonic() - begun >= 0.9  # 3 x 0.3 s; without it some hundredths


@pytest.mark.parametrize(
    ("fault", "settings", "times", "words"),
    [
        ("drop", {}, 2, "disconnected"),
        ("delay", {"timeout": 0.2}, 2, "no response in time"),
        ("500", {}, 2, "status 500: planted fault"),
        ("garbage", {}, 2, "cannot be read"),
        ("odd", {}, 2, "not a chat completion"),
        ("abort", {}, 2, "gave up"),
        ("408", {}, 2, "status 408"),
        ("400", {}, 1, "status 400: planted fault"),
        ("413", {}, 1, "status 413: planted fault"),
        ("451", {}, 1, "status 451: planted fault"),
    ],
)
def test_a_picture_that_is_the_cause_fails_alone(
    fault: str,
    settings: dict[str, Any],
    times: int,
    words: str,
    server: ServerProcess,
    pictures: Pictures,
    connect: Connect,
) -> None:
    server.control(poison=[300, 100, fault])
    answers = connect(attempts=2, **settings).answer(pictures, DETECT)
    assert [answer.status for answer in answers] == [Status.OK, Status.OK, Status.FAILED, Status.OK]
    assert answers[2].finish_reason == "error"
    assert re.search(rf"picture 2: .*asked {'once' if times == 1 else '2 times'}, .*{words}", str(answers[2].error))


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("429", "busy", "overloaded.*slow down"),
        ("502", "busy", "overloaded"),
        ("503", "busy", "overloaded"),
        ("504", "busy", "overloaded"),
        ("529", "busy", "overloaded"),
        ("hour", "busy", "come back in 3600 s"),
        ("quota", "quota", "quota of this key is used up.*You exceeded"),
        ("402", "quota", "quota"),
        ("within", "quota", "status 402: no credit left"),
        ("401", "key", "does not accept the key.*planted fault"),
        ("403", "key", "does not accept the key"),
        ("404", "model", "no such model.*planted fault"),
    ],
)
def test_a_server_that_is_the_cause_ends_the_call_with_the_answers_that_arrived(
    fault: str, code: str, words: str, server: ServerProcess, pictures: Pictures, connect: Connect
) -> None:
    engine = connect(attempts=2)
    calm = boxes(engine.answer(pictures, DETECT))
    server.control(poison=[300, 100, fault])
    with pytest.raises(ServerError, match=words) as stopped:
        engine.answer(pictures, DETECT)
    assert stopped.value.code == code
    (arrived,) = stopped.value.answers
    assert arrived[2] is None
    assert boxes([each for each in arrived if each is not None]) == [*calm[:2], *calm[3:]]
    patient = code == "busy" and fault != "hour"
    sizes = [tuple(asked["sizes"][0]) for asked in server.stats()["asked"]]
    assert sizes.count((300, 100)) == (4 if patient else 2 if code == "busy" else 1)
    server.control()
    assert boxes(engine.answer(pictures, DETECT)) == calm  # still usable


@pytest.mark.parametrize(
    ("fault", "settings", "code", "words"),
    [
        ("500", {}, "fails", "whatever the picture.*status 500: planted fault"),
        ("400", {}, "refused", "status 400"),
        ("drop", {}, "fails", "disconnected"),
        ("garbage", {}, "fails", "cannot be read"),
        ("delay", {"timeout": 0.1}, "fails", "no response in time"),
    ],
)
@pytest.mark.parametrize("number", [1, 4])
def test_a_fault_of_plain_gray_too_is_the_servers(
    fault: str,
    settings: dict[str, Any],
    code: str,
    words: str,
    number: int,
    server: ServerProcess,
    pictures: Pictures,
    connect: Connect,
) -> None:
    engine = connect(attempts=2, **settings)
    server.control(plan=[None] * (number - 1) + [fault] * 50)
    with pytest.raises(ServerError, match=words) as stopped:
        engine.answer(pictures[:number], DETECT)
    assert stopped.value.code == code
    assert sum(answer is not None for answer in stopped.value.answers[0]) == number - 1


def test_a_question_without_pictures_is_tried_in_other_words(server: ServerProcess, connect: Connect) -> None:
    engine = connect(attempts=1)
    server.control(plan=["400"], say={"content": "yes"})
    (answer,) = engine.answer([Subject()], ASK)
    assert answer.status is Status.FAILED
    server.control(plan=["400"] * 2)
    with pytest.raises(ServerError, match="status 400"):
        engine.answer([Subject()], ASK)


def test_pictures_that_all_fail_end_the_run_at_last(server: ServerProcess, many: Pictures, connect: Connect) -> None:
    engine = connect(attempts=1)
    server.control(poison=[32, 32, "400"])
    for _ in range(3):
        assert {answer.status for answer in engine.answer(many, DETECT)} == {Status.FAILED}
    with pytest.raises(ServerError, match=r"64 items in a row failed.*status 400"):
        engine.answer(many, DETECT)


def test_bad_pictures_fail_alone(many: Pictures, connect: Connect) -> None:
    bad: list[Any] = [np.zeros((8, 8, 3)), many[0], np.zeros((1, 500, 3), np.uint8), None]
    answers = connect().answer(bad, DETECT)
    assert [answer.status is Status.FAILED for answer in answers] == [True, False, True, True]
    assert "dtype uint8" in str(answers[0].error)
    assert connect().answer([], DETECT) == []
    with pytest.raises(RequestError, match="image_pad"):
        connect().answer(many[:1], Request(task=Task.ASK, prompt="<|image_pad|>?"))


def test_a_server_that_dies_in_the_middle(many: Pictures, connect: Connect) -> None:
    process = ServerProcess({STUB: None})
    try:
        engine = connect(url=process.url, concurrency=2, attempts=3)
        engine.answer(many, DETECT)
        process.control(plan=[None] * 7 + ["die"])
        # No tile fails for it: what was under way is asked again when the server is back.
        with pytest.raises(ServerError, match=r"cannot be reached.*asked.*answered is kept") as stopped:
            engine.answer(many, DETECT)
        assert 6 <= sum(answer is not None for answer in stopped.value.answers[0]) <= 7
    finally:
        process.stop()
    with pytest.raises(EngineError, match="Check that the server runs"):
        connect(url=process.url, attempts=2)


def test_concurrency_is_bounded_and_order_kept(server: ServerProcess, many: Pictures, connect: Connect) -> None:
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


def test_refusals_stop_with_the_servers_words(server: ServerProcess, many: Pictures, connect: Connect) -> None:
    engine = connect()
    with pytest.raises(EngineError, match=r"status 404: The model `other` does not exist"):
        connect("other", family="Qwen3-VL").answer(many, DETECT)
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
    server.control(key=secret, plan=["500"] * 2)
    failed = engine.answer(many[:1], DETECT)[0]
    assert "you sent Bearer ***" in str(failed.error)
    server.control(key=secret, plan=["400"] * 2)
    with pytest.raises(EngineError, match=r"Bearer \*\*\*") as refused:
        engine.answer(many[:1], DETECT)
    shown = [str(failed), repr(engine.info), repr(vars(engine)), caplog.text]
    shown.append("".join(traceback.format_exception(refused.value)))
    assert not any(secret in text for text in shown)
    monkeypatch.setenv("QWENVL_API_KEY", "sk-\x07worse")
    with pytest.raises(EngineError, match="characters that no HTTP header can carry") as bad:
        connect()
    assert "worse" not in str(bad.value)
