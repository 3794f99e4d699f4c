"""The chat-completions dialect: a request to its JSON, and a response's JSON to what the model wrote.

Sources: the OpenAI API reference, `vllm/entrypoints/openai/chat_completion/protocol.py`, SGLang
`srt/entrypoints/openai/protocol.py`, and transformers `cli/serving/chat_completion.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenvl.constraints.json_schema import LIMIT, SchemaValidator
from qwenvl.errors import RequestError
from qwenvl.families import ModelFamily, Thinking
from qwenvl.prompts import build_prompt
from qwenvl.request import Generation, Request
from qwenvl.subject import Subject, ask_about

OPTIONAL = {
    "logprobs": ("logprobs", "top_logprobs"),
    "response_format": ("response_format",),
    "repetition_penalty": ("repetition_penalty",),
    "top_k": ("top_k",),
    "seed": ("seed",),
    "skip_special_tokens": ("skip_special_tokens",),
    "chat_template_kwargs": ("chat_template_kwargs",),
    "mm_processor_kwargs": ("mm_processor_kwargs",),
}
"""Fields that some servers do not know, and the keys that go with each."""

_FINISHES = {"stop": "stop", "eos": "stop", "length": "length", "max_tokens": "length", "repetition": "loop"}
_FILTERED = ("content_filter", "safety", "sensitive", "recitation", "prohibited_content")
"""The server took the rest of the answer away: what is there was cut off."""
_COUNTS = ("prompt_tokens", "completion_tokens")
_MOST_TOKENS = 100_000_000
_HALVES = re.compile("[\ud800-\udfff]")
_ABORTED = ("abort", "error", "cancelled")


@dataclass(frozen=True, slots=True)
class Token:
    """One token as a server tells it."""

    piece: bytes
    log_probability: float
    top: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens at this place, with their log-probabilities."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server's response holds."""

    text: str
    reasoning: str | None = None
    finish_reason: str = "stop"
    tokens: tuple[Token, ...] = ()
    """Empty where the server gives no log-probabilities."""
    prompt_tokens: int = 0
    new_tokens: int = 0
    notes: tuple[str, ...] = ()


def chat_messages(request: Request, subject: Subject, urls: Sequence[str]) -> list[dict[str, object]]:
    """The conversation of a request about a subject. Without a system prompt of its own, the template's stays.

    Parameters
    ----------
    request : Request
    subject : Subject
    urls : sequence of str
        Of its pictures, in order.

    Raises
    ------
    RequestError
        The words hold the name of the token that stands for a picture.
    """
    if "<|image_pad|>" in build_prompt(request) or "<|image_pad|>" in (request.system_prompt or ""):
        raise RequestError("the prompt holds '<|image_pad|>'; leave it out")
    messages = ask_about(request, subject)
    left = iter(urls)
    for message in messages:
        message["content"] = [
            {"type": "image_url", "image_url": {"url": next(left)}} if part["type"] == "image" else part
            for part in message["content"]
        ]
    return messages


def sampling_fields(settings: Generation) -> dict[str, Any]:
    """Sampling settings, neutral ones too: servers fill gaps from the model's generation_config.json."""
    fields = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "repetition_penalty": settings.repetition_penalty,
    }
    if settings.temperature > 0:
        fields |= {"top_k": settings.top_k or -1, "seed": settings.seed}
    return fields


def changes_sampling(field: str, settings: Generation) -> bool:
    """True where leaving `field` out would draw other tokens than the request asks for."""
    if field == "repetition_penalty":
        return settings.repetition_penalty != 1.0
    return settings.temperature > 0 and (field == "seed" or (field == "top_k" and settings.top_k > 0))


def template_fields(family: ModelFamily, thinking: bool) -> dict[str, object]:
    """What the chat template is told of a family that may or may not think."""
    if family.thinking is Thinking.SWITCHABLE:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    return {}


def schema_fields(schema: Mapping[str, object]) -> dict[str, object]:
    """The structured-output field that vLLM, SGLang, llama.cpp and OpenAI's own servers share."""
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": dict(schema), "strict": True},
        }
    }


def obeys_schema(text: str, schema: Mapping[str, object]) -> bool:
    """True where a text is nothing but JSON that is valid by `schema`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    # A schema that cannot be applied within its limits is not the server's fault.
    return all(error.validator == LIMIT for error in SchemaValidator(schema).iter_errors(value))


def refused_fields(message: str, payload: Mapping[str, object]) -> set[str]:
    """Optional fields of a payload that a server's refusal names."""
    return {
        field
        for field, keys in OPTIONAL.items()
        if any(key in payload and re.search(rf"\b{key}\b", message) for key in keys)
    }


def read_reply(body: Any) -> Reply:
    """Read a chat completion.

    Raises
    ------
    ValueError
        It is none, or the server gave up on it.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, finish = message.get("content"), choice.get("finish_reason") or "stop"
        # vLLM renamed the field to `reasoning`; SGLang and transformers write `reasoning_content`.
        reasoning = message.get("reasoning_content") or message.get("reasoning") or None
        refusal = message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion ({type(error).__name__}: {error})") from error
    broken = choice.get("error") or message.get("error")
    if broken:
        raise ValueError(f"the server gave up ({_HALVES.sub('?', str(broken))[:200]})")
    notes: list[str] = []
    if isinstance(content, list):
        content, thought = _joined(content)
        reasoning = reasoning or thought or None
    if not content and isinstance(refusal, str):
        content = refusal
    if not isinstance(content, str | None) or not isinstance(reasoning, str | None):
        raise ValueError("not a chat completion: content is no text")
    if not isinstance(finish, str):
        notes.append("finish:unreadable")
        finish = "stop"
    if finish in _ABORTED:
        raise ValueError(f"the server gave up (finish_reason {finish!r})")
    known = _FINISHES.get(finish)
    if known is None:
        notes.append(f"finish:{_HALVES.sub('?', finish)[:40]}")
    usage = body.get("usage")
    counts = [_count(usage.get(key) if isinstance(usage, dict) else None) for key in _COUNTS]
    if None in counts or not isinstance(usage, dict | None):
        notes.append("usage-unreadable")
    try:
        told = choice.get("logprobs") or {}
        tokens = tuple(_token(entry) for entry in told.get("content") or ())
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        notes.append("logprobs-unreadable")
        tokens = ()
    text = _HALVES.sub("\ufffd", content or "")
    if text != (content or ""):
        notes.append("cleaned")
    reasoning = None if reasoning is None else _HALVES.sub("\ufffd", reasoning)
    known = known or ("length" if finish.casefold() in _FILTERED else "stop")
    return Reply(text, reasoning, known, tokens, counts[0] or 0, counts[1] or 0, tuple(notes))


def _joined(parts: list[object]) -> tuple[str, str]:
    """Text and thoughts of a content that comes in parts."""
    text, thought = "", ""
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        said = part if isinstance(part, str) else part.get(kind, part.get("text")) if isinstance(part, dict) else None
        if not isinstance(said, str) or not isinstance(kind, str):
            raise ValueError("not a chat completion: a part of content is no text")
        if kind in ("thinking", "reasoning"):
            thought += said
        else:
            text += said
    return text, thought


def _count(value: object) -> int | None:
    """A number of tokens; 0 where none is given, None where it cannot be one."""
    if value is None:
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:10])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value)


def _token(entry: Any) -> Token:
    top = tuple((_piece(other), _logarithm(other)) for other in entry.get("top_logprobs") or ())
    return Token(_piece(entry), _logarithm(entry), top)


def _logarithm(entry: Any) -> float:
    """A log-probability; servers write -9999 or less for none at all, and rounding may lift one above 0."""
    value = entry["logprob"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 1e-3:
        raise ValueError("no log-probability")
    return min(0.0, float(max(value, -9999.0)))


def _piece(entry: Any) -> bytes:
    told = entry.get("bytes")
    if told and not isinstance(told, list):
        raise TypeError("bytes are no list")
    if not told and not isinstance(entry["token"], str):
        raise TypeError("a token is no text")
    return bytes(told) if told else entry["token"].encode("utf-8", "replace")
