"""From the decoded text to the part of it that is the answer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

MAX_CHARACTERS = 131_072
"""Longest answer that is read: 32,768 tokens of grounding text, in which every digit is a token, stay below it."""

_ENDS = ("<|im_end|>", "<|endoftext|>", "</s>", "<|im_start|>user")
_HEAD = re.compile(r"\s*(?:<\|im_start\|>\s*)?assistant\s*\n|\s*<\|im_start\|>\s*assistant\b")


@dataclass(frozen=True, slots=True)
class Body:
    """The answer part of a model's text."""

    text: str
    start: int = 0
    """Where it stands in the model's text."""
    reasoning: str | None = None
    cut: bool = False
    """The text ended before the answer began, or was longer than is read."""
    behind: str = ""
    """What stands behind the end of the turn."""


def body_of(text: str, *, thinking: tuple[str, str] | None, finished: bool) -> Body:
    """Part the reasoning from the answer and take off what the chat template put around it.

    Parameters
    ----------
    text : str
        The model's text as decoded.
    thinking : tuple of str or None
        Opening and closing marker of a Thinking family. Its prompt may have opened the reasoning already.
    finished : bool
        False where the model was stopped by a limit.
    """
    opening, closing = thinking or ("<think>", "</think>")
    reasoning, mark, answer = text.rpartition(closing)
    start = len(reasoning) + len(mark)
    if mark:
        cut = opening in answer
        if cut:
            answer, _, unfinished = answer.partition(opening)
            reasoning += unfinished
    else:
        # A Thinking model that hit the limit without closing its reasoning never began to answer.
        before, opened, unfinished = text.partition(opening)
        cut = bool(opened) or (thinking is not None and not finished)
        answer, reasoning = ("", unfinished if opened else text) if cut else (before, "")
    if cut:
        answer = ""
    thought = reasoning.replace(opening, "", 1).strip() if mark or cut else None
    head = _HEAD.match(answer[:200])
    if head:
        answer, start = answer[head.end() :], start + head.end()
    behind = ""
    for end in _ENDS if "<" in answer else ():
        answer, _, rest = answer.partition(end)
        behind = rest + behind
    start += len(answer) - len(answer.lstrip())
    cut = cut or len(answer) > MAX_CHARACTERS
    return Body(answer[:MAX_CHARACTERS].strip(), start, thought, cut, behind)


_TOOL_CALL = re.compile(
    r"<tool_call>.*?(?:</tool_call>|\Z)"
    r"|\[TOOL_CALL\].*?(?:\[/TOOL_CALL\]|\[TOOL_RESPONSE\][^\n]*|\Z)"
    r"|✿FUNCTION✿.*?(?:✿(?:RESULT|RETURN)✿|\Z)"
    r"|<function=[^<>]{0,80}>.*?(?:</function>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def without_tool_calls(text: str) -> tuple[str, bool]:
    """`text` with blanks where the model calls a tool, and whether it does: such boxes are questions, no finds."""
    if "tool_call" not in text and "TOOL_CALL" not in text and "✿" not in text and "<function=" not in text:
        return text, False
    rest = _TOOL_CALL.sub(lambda match: " " * len(match[0]), text)
    return rest, rest != text


def cleaned(value: object) -> Any:
    """A JSON value that every store and every reader can hold: `value` itself where it is one.

    Strings and keys are cleaned as by `clean`; NaN and the infinities (1e400) become None.
    """
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(str(key)): cleaned(part) for key, part in value.items()}
    if isinstance(value, list):
        return [cleaned(part) for part in value]
    return value


def clean(text: str) -> str:
    """Text that every store can hold: lone surrogates become '?', NUL goes."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
