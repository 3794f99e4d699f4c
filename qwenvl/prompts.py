"""The words of each task. Every family is asked in the words its makers trained it on (Qwen3-VL cookbooks)."""

from __future__ import annotations

import json

from qwenvl.request import Request, Task


def _listed(labels: tuple[str, ...]) -> str:
    return ", ".join(f'"{label}"' for label in labels)


def build_prompt(request: Request) -> str:
    """The user's turn for one tile, without image tokens.

    A request's own `prompt` replaces the task's standard words; labels and schema are then appended only
    where the task cannot be answered without them (classify, extract).
    """
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
