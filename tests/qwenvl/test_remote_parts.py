"""Parts of the remote engine: likelihoods of words, names of models, URLs."""

from __future__ import annotations

import math

import pytest
from remote_cases import Connect
from server import ServerProcess

from qwenvl.engines.remote import RemoteEngine
from qwenvl.engines.server.chat import Token
from qwenvl.engines.server.likelihood import answer_tokens, label_probabilities, yes_probability
from qwenvl.engines.server.served import choose_model, family_by_name, served_family
from qwenvl.errors import EngineError, UnknownFamilyError


def token(text: str, **top: float) -> Token:
    """The token `text` among the likeliest by probability; '_' stands for a space, END for the token that ends."""
    listed = {key.replace("_", " ").replace("END", "<|im_end|>"): value for key, value in top.items()}
    tops = tuple((key.encode(), math.log(value)) for key, value in listed.items())
    return Token(text.encode(), math.log(listed[text]), tops)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (token("yes", yes=0.6, _yes=0.1, YES=0.1, no=0.2), 0.8),
        (token("Yes", Yes=0.999, x=1e-6), 1.0),  # no is at most a few millionths
        (token("Yes", Yes=0.6, x=0.2), None),  # no may be as likely as 0.2
        (token("Well", Well=0.9, yes=0.05, no=0.05), 0.5),  # nothing is unlisted
        (token("Well", Well=1.0), None),
    ],
)
def test_yes(first: Token, expected: float | None) -> None:
    found = yes_probability([first])
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4))
    assert yes_probability([]) is None


def test_labels() -> None:
    labels = ("tumour", "stroma", "tumour edge")
    first = token("tum", tum=0.7, st=0.2, Str=0.1)
    second = token("our", our=1.0)
    third = token("<|im_end|>", END=0.9, _edge=0.1)
    assert label_probabilities([first, second, third], labels) == pytest.approx(
        {"tumour": 0.63, "stroma": 0.3, "tumour edge": 0.07}
    )
    assert label_probabilities([first, second], labels) is None  # cut where two labels are still open
    assert label_probabilities([token("s", s=0.5, zzz=0.3)], labels) is None  # 0.2 may be anything
    assert label_probabilities([], labels) is None
    assert label_probabilities([token("b.", **{"b.": 0.8, "a": 0.2})], ("a", "b")) == pytest.approx(
        {"a": 0.2, "b": 0.8}
    )


def test_the_answer_begins_after_the_thought() -> None:
    words = [Token(piece, 0.0) for piece in (b"yes", b"</th", b"ink>", b"\n\n", b"No")]
    assert [each.piece for each in answer_tokens(words, "</think>")] == [b"No"]
    assert answer_tokens(words[:2], "</think>") == ()
    assert answer_tokens(words, None) is words


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen-VL-Chat", "Qwen-VL"),
        ("Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "Qwen2.5-VL"),
        ("qwen2.5vl:7b", "Qwen2.5-VL"),
        ("Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL"),
        ("Qwen3-VL-4B-Thinking-FP8", "Qwen3-VL-Thinking"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen3-VL-MoE"),
        ("Qwen/Qwen3-VL-235B-A22B-Thinking", "Qwen3-VL-MoE-Thinking"),
        ("Qwen/Qwen3.5-4B", "Qwen3.5"),
        ("Qwen/Qwen3.6-35B-A3B", "Qwen3.5-MoE"),
        ("default", None),
        ("Qwen/Qwen3-8B", None),
        ("llava-1.6", None),
        ("/models/Qwen2.5-VL/merged", None),
    ],
)
def test_families_are_read_off_clear_names_only(name: str, family: str | None) -> None:
    found = family_by_name(name)
    assert (found and found.name) == family


def test_which_model_is_asked(server: ServerProcess, connect: Connect) -> None:
    with pytest.raises(EngineError, match="serves 4 models"):
        connect(None)
    server.control(models=[])
    with pytest.raises(EngineError, match="lists no model"):
        connect(None)
    server.control(models=[{"id": "default"}])
    with pytest.raises(EngineError, match="its name does not tell"):
        connect(None)
    with pytest.raises(UnknownFamilyError):
        connect(None, family="Qwen9")
    assert connect(None, family="qwen2.5-vl").info.family == "Qwen2.5-VL"
    entry = {"id": "default", "root": "Qwen/Qwen3-VL-8B-Instruct", "created": 1}
    server.control(models=[entry])
    engine = connect(None)
    assert (engine.info.model, engine.info.family) == ("default@127.0.0.1", "Qwen3-VL")
    assert engine.info.processor["factor"] == 32
    assert "cannot be seen" in str(engine.info.warning)
    server.control(models=[entry | {"created": 2, "permission": [{"id": "x"}]}])
    assert connect(None).info.fingerprint == engine.info.fingerprint
    server.control(models=[entry | {"root": "Qwen/Qwen3-VL-4B-Instruct"}])
    assert connect(None).info.fingerprint != engine.info.fingerprint
    both = choose_model({"data": [{"id": "Qwen3-VL-8B", "root": "Qwen/Qwen2.5-VL-7B"}]}, None, "x")
    with pytest.raises(EngineError, match=r"its names say Qwen3-VL and Qwen2\.5-VL"):
        served_family(both, None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host", "not an http URL"),
        ("host:8000", "not an http URL"),
        ("http://", "not an http URL"),
        ("http://name:word@host", "password"),
        ("http://host/v1?key=abc", "query"),
    ],
)
def test_bad_urls(url: str, words: str) -> None:
    with pytest.raises(EngineError, match=words) as error:
        RemoteEngine(url, model="Qwen3-VL-8B")
    assert "word@" not in str(error.value)
    assert "abc" not in str(error.value)
