"""The remote engine against a real server process: the same answers as in-process, whatever the server can do."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from remote_cases import ASK, CLASSIFY, DETECT, EXTRACT, SCORE, Connect, Pictures
from server import SERVED, STUB, ServerProcess

from qwenvl.answer import Answer, Status
from qwenvl.engines.local import LocalEngine
from qwenvl.engines.server.chat import read_reply
from qwenvl.errors import EngineError
from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task


@pytest.mark.parametrize("family", SERVED)
def test_the_same_answers_as_in_process(
    family: str, tiny: Callable[[str], Path], pictures: Pictures, connect: Connect
) -> None:
    local = LocalEngine.load(tiny(family), device="cpu")
    limits = {"min_pixels": local.checkpoint.processor.min_pixels, "max_pixels": 448**2}
    remote = connect(family, top_logprobs=400, concurrency=3, **limits)
    assert remote.info.family == family
    for request in (ASK, EXTRACT):
        ours, theirs = remote.answer(pictures, request), local.answer(pictures, request)
        for field in ("raw", "status", "value", "finish_reason", "new_tokens", "prompt_tokens", "notes"):
            assert [getattr(a, field) for a in ours] == [getattr(a, field) for a in theirs], field
        assert all(answer.seconds > 0 for answer in ours)
    # Boxes are asked for in the same words, and written freely.
    words = Request(task=Task.ASK, prompt=build_prompt(DETECT), generation=DETECT.generation)
    free = local.answer(pictures, words)
    assert [answer.raw for answer in remote.answer(pictures, DETECT)] == [answer.raw for answer in free]
    for ours, theirs in zip(remote.answer(pictures, SCORE), local.answer(pictures, SCORE), strict=True):
        assert ours.status is Status.OK
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)


def test_pictures_travel_without_loss(server: ServerProcess, pictures: Pictures, connect: Connect) -> None:
    import zlib

    connect().answer(pictures, DETECT)
    asked = server.stats()["asked"]
    assert sorted(each["crcs"][0] for each in asked) == sorted(zlib.crc32(picture) for picture in pictures)
    assert asked[0]["fields"] == {
        "model": STUB,
        "stream": False,
        "skip_special_tokens": False,
        "temperature": 0.0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 12,
    }
    assert asked[0]["roles"] == ["user"]
    sampled = Request(
        task=Task.ASK, prompt="?", system_prompt="Be brief.", generation={"temperature": 0.7, "top_k": 20, "seed": 5}
    )
    server.control()
    connect(send_limits=True).answer(pictures[:1], sampled)
    seen = server.stats()["asked"][0]
    assert seen["roles"] == ["system", "user"]
    assert {key: seen["fields"][key] for key in ("temperature", "top_k", "seed", "mm_processor_kwargs")} == {
        "temperature": 0.7,
        "top_k": 20,
        "seed": 5,
        "mm_processor_kwargs": {"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}},
    }


def test_absolute_boxes_come_back_in_tile_px(server: ServerProcess, pictures: Pictures, connect: Connect) -> None:
    """The third picture (300 x 100) is resized to 308 x 112 here, so that the server has nothing to resize."""
    text = '[{"bbox_2d": [28, 28, 112, 56], "label": "nucleus"}]'
    server.control(say={"content": text, "logprob": math.log(0.5)})
    answer = connect("Qwen2.5-VL").answer([pictures[2]], DETECT)[0]
    assert server.stats()["asked"][0]["sizes"][0] == [308, 112]
    assert answer.status is Status.OK
    assert answer.objects[0].box == pytest.approx((28 * 300 / 308, 25, 112 * 300 / 308, 50))
    assert answer.objects[0].score == pytest.approx(0.5 ** ((2 + 2 + 3 + 2) / 4))
    answer = connect("Qwen3-VL").answer([pictures[2]], DETECT)[0]
    assert server.stats()["asked"][1]["sizes"][0] == [300, 100]
    assert answer.objects[0].box == pytest.approx((8.4, 2.8, 33.6, 5.6))


def test_a_server_that_shrinks_pictures_is_noticed(server: ServerProcess, pictures: Pictures, connect: Connect) -> None:
    server.control(say={"content": "[]"}, prompt_tokens=30)
    answer = connect("Qwen2.5-VL").answer(pictures[:1], DETECT)[0]
    assert answer.status is Status.FAILED
    assert "max_pixels" in str(answer.error)
    answer = connect("Qwen3-VL").answer(pictures[:1], DETECT)[0]
    assert (answer.status, answer.notes) == (Status.EMPTY, ("shrunk",))


def test_a_server_that_ignores_the_schema_is_noticed(
    server: ServerProcess, pictures: Pictures, connect: Connect
) -> None:
    server.control(say={"content": 'The JSON is ```json\n{"n": 3, "grade": "low"}\n```'}, ignore=["response_format"])
    engine = connect("Qwen3-VL")
    answer = engine.answer(pictures[:1], EXTRACT)[0]
    assert answer.value == {"n": 3, "grade": "low"}
    assert "schema-ignored" in answer.notes
    server.control(say={"content": '{"n": 3, "grade": "low"}'})
    assert engine.answer(pictures[:1], EXTRACT)[0].notes == ("schema-ignored",)
    assert connect("Qwen3-VL").answer(pictures[:1], EXTRACT)[0].notes == ()


def test_fields_that_a_server_refuses_are_left_out_and_noted(
    server: ServerProcess, pictures: Pictures, connect: Connect
) -> None:
    server.control(refuse=["response_format", "repetition_penalty", "skip_special_tokens", "logprobs"])
    engine = connect("Qwen3-VL")
    for _ in range(2):
        for answer in engine.answer(pictures, EXTRACT):
            assert answer.notes[-3:] == (
                "refused:repetition_penalty",
                "refused:response_format",
                "refused:skip_special_tokens",
            )
    assert len(server.stats()["asked"]) <= 2 * len(pictures) + len(pictures), "what was learnt is remembered"
    answer = engine.answer(pictures[:1], DETECT)[0]
    assert "refused:logprobs" in answer.notes
    penalised = Request(task=Task.ASK, prompt="?", generation={"repetition_penalty": 1.2})
    with pytest.raises(EngineError, match=r"does not take a setting.*repetition_penalty"):
        connect().answer(pictures, penalised)


@pytest.mark.parametrize("how", ["refuse", "ignore"])
def test_without_probabilities_words_count_and_it_is_noted(
    how: str, server: ServerProcess, pictures: Pictures, connect: Connect
) -> None:
    told = {how: ["logprobs"]}
    engine = connect()
    server.control(say={"content": "Yes."}, **told)
    for _ in range(2):
        answer = engine.answer(pictures[:1], SCORE)[0]
        assert (answer.scores, answer.text) == ({"yes": 1.0}, "yes")
        assert "text" in answer.notes
    server.control(say={"content": "stroma"}, **told)
    answer = engine.answer(pictures[:1], CLASSIFY)[0]
    assert (answer.text, answer.scores, answer.status) == ("stroma", {}, Status.OK)
    assert "text" in answer.notes
    server.control(say={"content": "I cannot tell."}, **told)
    assert engine.answer(pictures[:1], SCORE)[0].status is not Status.OK


def test_scores_of_a_server_that_lists_the_likeliest(
    server: ServerProcess, pictures: Pictures, connect: Connect
) -> None:
    engine = connect()
    server.control(say={"content": "Yes", "tops": [["Yes", {"Yes": 0.5, " yes": 0.1, "No": 0.2, "a": 1e-4}]]})
    answer = engine.answer(pictures[:1], SCORE)[0]
    assert answer.scores == {"yes": pytest.approx(0.75, abs=1e-6)}
    assert (answer.status, answer.notes) == (Status.OK, ())
    assert len(server.stats()["asked"]) == 1
    assert server.stats()["asked"][0]["fields"]["max_tokens"] == 1
    server.control(say={"content": "Well, yes", "tops": [["Well", {"Well": 0.9, "Yes": 0.05, "x": 0.04}]]})
    answer = engine.answer(pictures[:1], SCORE)[0]
    assert "text" in answer.notes
    assert [each["fields"]["max_tokens"] for each in server.stats()["asked"]] == [1, 512]


def test_reasoning_is_kept_apart(server: ServerProcess, pictures: Pictures, connect: Connect) -> None:
    box = '[{"bbox_2d": [0, 0, 500, 500], "label": "nucleus"}]'
    engine = connect(family="Qwen3-VL-Thinking")
    for say in (
        {"content": box, "reasoning_content": "There is one."},
        {"content": box, "reasoning": "There is one."},
        {"content": f"There is one.\n</think>\n\n{box}"},
    ):
        server.control(say=say)
        answer = engine.answer(pictures[:1], DETECT)[0]
        assert (answer.status, answer.reasoning) == (Status.OK, "There is one.")
        assert answer.objects[0].box == (0, 0, 112, 112)
    for say in (
        {"content": None, "reasoning_content": "Let me [1]", "finish_reason": "length"},
        {"content": "Let me [1]", "finish_reason": "length"},
    ):
        server.control(say=say)
        answer = engine.answer(pictures[:1], DETECT)[0]
        assert (answer.status, answer.reasoning, answer.objects) == (Status.TRUNCATED, "Let me [1]", ())


def test_an_event_loop_of_the_callers_is_no_hindrance(many: Pictures, connect: Connect) -> None:
    async def notebook() -> list[Answer]:
        return connect().answer(many[:3], DETECT)

    assert [answer.status for answer in asyncio.run(notebook())] == [Status.OK] * 3


def test_torch_is_not_loaded() -> None:
    code = "import sys; import qwenvl.engines.remote; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_replies() -> None:
    for body in (None, [], {}, {"choices": []}, {"choices": [{"message": {"content": 3}}]}, {"error": "x"}):
        with pytest.raises(ValueError, match="not a chat completion"):
            read_reply(body)
    choice = {"message": {"content": "a"}, "finish_reason": "content_filter"}
    reply = read_reply({"choices": [choice]})
    assert (reply.notes, reply.finish_reason) == (("finish:content_filter",), "length")


@pytest.mark.parametrize("place", ["choice", "message"])
def test_an_error_beside_half_an_answer_is_one(place: str) -> None:
    error = {"error": {"message": "upstream is gone", "code": 502}}
    message = {"content": "[]"} | (error if place == "message" else {})
    choice = {"message": message, "finish_reason": "stop"} | (error if place == "choice" else {})
    with pytest.raises(ValueError, match="upstream is gone"):
        read_reply({"choices": [choice]})


def test_a_refusal_beside_empty_content_is_the_answer() -> None:
    choice = {"message": {"content": "", "refusal": "I can't help."}, "finish_reason": "stop"}
    assert read_reply({"choices": [choice]}).text == "I can't help."
    assert read_reply({"choices": [choice | {"finish_reason": "length"}]}).finish_reason == "length"
