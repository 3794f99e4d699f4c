"""The words of each task. Every family is asked in the words its makers trained it on (Qwen3-VL cookbooks)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from qwenvl.families import ModelFamily, Thinking
from qwenvl.request import Request, Task

Message = dict[str, Any]
"""One turn in the form that chat templates take: `role`, and `content` as text or as a list of parts."""


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(f'"{label}"' for label in labels)


def build_prompt(request: Request, *, target: str | None = None) -> str:
    """The user's turn for one tile, without image tokens.

    A request's own `prompt` replaces the task's standard words; labels and schema are then appended only
    where the task cannot be answered without them (classify, extract).

    Parameters
    ----------
    request : Request
    target : str, optional
        Name of the one of several pictures that is asked about. describe, ask and extract leave it to their own words.
    """
    words = _words(request)
    if target is None or request.task in (Task.DESCRIBE, Task.ASK, Task.EXTRACT):
        return words
    return f'In the picture "{target}": {words}'


def _words(request: Request) -> str:
    labels = _listed(request.labels)
    match request.task:
        case Task.DETECT:
            standard = f"Locate every object of these classes: {labels}. Report bbox_2d and label in JSON format."
        case Task.POINT:
            standard = f"Point to every object of these classes: {labels}. Report point_2d and label in JSON format."
        case Task.COUNT:
            standard = f"How many objects of these classes are there: {labels}? Answer with one number."
        case Task.CLASSIFY:
            question = request.prompt or "Which class fits this image best?"
            return f"{question} Choose one of: {labels}. Answer with the class only."
        case Task.SCORE:
            return f"{request.prompt} Answer yes or no."
        case Task.DESCRIBE:
            standard = "Describe this image in one sentence."
        case Task.ASK:
            standard = ""
        case Task.EXTRACT:
            question = request.prompt or "Extract the information from this image."
            schema = json.dumps(request.output_schema, separators=(",", ":"), ensure_ascii=False)
            return f"{question} Answer with one JSON value that follows this JSON Schema: {schema}"
    return request.prompt or standard


_MARKER = re.compile(
    r"<(?=\|(?!image_pad\||object_ref_|box_|quad_)[a-z][a-z0-9_]{0,30}\|>|/?(?:think|tool_call|tool_response)>)"
)


def as_text(words: str) -> str:
    """Words of a user with the names of a conversation's markers written so that no tokenizer takes them for markers.

    A label or question that holds `<|im_end|>` would end its own turn and could write the assistant's; it becomes
    `< |im_end|>`. The marks of places (`<|box_start|>`, `<|object_ref_start|>`) are part of a question and stay, and
    `<|image_pad|>`, which stands for a picture, is refused where prompts are encoded.
    """
    return _MARKER.sub("< ", words)


def conversation(
    prompt: str, *, system_prompt: str | None = None, pictures: int = 1, anchors: Sequence[str] = ()
) -> list[Message]:
    """The messages of one question about `pictures` pictures, pictures first as in the families' training.

    Parameters
    ----------
    prompt : str
        The user's words, for example of `build_prompt`; they are made safe by `as_text`.
    system_prompt : str, optional
        None leaves the system turn to the family's chat template.
    pictures : int
        Number of pictures before the words.
    anchors : sequence of str
        Text before each picture, such as 'Picture 1: ', the form that the families' templates number pictures in;
        '' for none.
    """
    content: list[Message] = []
    for number in range(pictures):
        if number < len(anchors) and anchors[number]:
            content.append({"type": "text", "text": anchors[number]})
        content.append({"type": "image"})
    user = {"role": "user", "content": [*content, {"type": "text", "text": as_text(prompt)}]}
    if system_prompt is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": as_text(system_prompt)}]}, user]


def render_chat(
    messages: Sequence[Message], family: ModelFamily, *, thinking: bool = True, picture_names: Sequence[str] = ()
) -> str:
    """The prompt of a conversation as the family's own chat template renders it, up to the assistant's turn.

    Serves checkpoints that come without a template, and Qwen-VL, whose template is code.

    Parameters
    ----------
    messages : sequence of Message
        From `conversation`, or in the same form with more turns.
    family : ModelFamily
    thinking : bool
        Let a family think that can be told not to.
    picture_names : sequence of str
        Qwen-VL only: what stands between `<img>` and `</img>` for each picture, at most 256 bytes each.

    Returns
    -------
    str
        One `<|image_pad|>` per picture; it is repeated for each visual token later.

    Raises
    ------
    ValueError
        Qwen-VL: a picture without a name, or with one that is too long.
    """
    names = iter(picture_names)
    number = 0
    text = ""
    if messages[0]["role"] != "system" and family.default_system_prompt is not None:
        text = f"<|im_start|>system\n{family.default_system_prompt}<|im_end|>\n"
    for message in messages:
        content = message["content"]
        text += f"<|im_start|>{message['role']}\n"
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                number += 1
                text += _picture_v1(number, next(names, "")) if family.dialect == "tags_v1" else _PICTURE
            else:
                text += part["text"]
        text += "<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    if family.thinking is Thinking.ALWAYS or (family.thinking is Thinking.SWITCHABLE and thinking):
        text += f"{family.think_open}\n"
    elif family.thinking is Thinking.SWITCHABLE:
        text += f"{family.think_open}\n\n{family.think_close}\n\n"
    return text


_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def _picture_v1(number: int, name: str) -> str:
    # The bytes of the name stand in the picture's 256 slots (QwenLM/Qwen-VL `tokenization_qwen.py`).
    if not 0 < len(name.encode()) <= 256:
        raise ValueError(f"Qwen-VL: picture {number} needs a name of 1 to 256 bytes, got {name!r}")
    return f"Picture {number}:<img>{name}</img>\n"
