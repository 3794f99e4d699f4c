"""Training samples: photographs with known values as conversations, in the words and coordinates of a family."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwenvl.answer import TileObject
from qwenvl.geometry import PictureFrame
from qwenvl.processor import ProcessorSettings
from qwenvl.prompts import build_prompt
from qwenvl.request import Task
from qwenvl.writing import Writer
from workflows._folder import replace_whole
from workflows.instruments.asking import DISPLAY_UNITS, Form, characters_request, request_of, views_of
from workflows.instruments.errors import TruthError
from workflows.instruments.sheet import Sheet
from workflows.instruments.spotted import GLYPHS, NAMES
from workflows.instruments.truth import PhotographTruth, Truth


def write_samples(
    folders: Sequence[Path], out: Path, *, form: Form, writer: Writer, processor: ProcessorSettings,
    sheet: Sheet | None = None,
) -> int:  # fmt: skip
    """Write a conversation per photograph (ChatML, one per line), to learn from with `qwenvl finetune`.

    Parameters
    ----------
    folders : sequence of Path
        Each with a truth and its photographs. They are named in the file relative to it, not copied.
    out : Path
        The JSONL file.
    form : Form
    writer, processor
        Of the checkpoint that is to learn.
    sheet : Sheet, optional
        Needed by the form `values`.

    Returns
    -------
    int
        Conversations written.

    Raises
    ------
    TruthError
        A folder has no truth, a photograph is missing, or values lack what the form teaches.
    """
    if form is Form.VALUES and sheet is None:
        raise TruthError("form 'values' teaches the fields of a sheet; name it with --sheet")
    rows: list[str] = []
    for folder in folders:
        for photograph in Truth.read(folder).photographs:
            path = folder / photograph.name
            if not path.is_file():
                raise TruthError(f"{path} is named in the truth and does not exist")
            picture = os.path.relpath(path.resolve(), out.resolve().parent)
            frame = processor.frame(photograph.width, photograph.height)
            for prompt, answer in _turns(photograph, form, sheet, writer, frame):
                rows.append(json.dumps(_conversation(picture, prompt, answer), ensure_ascii=False))
    if not rows:
        raise TruthError("no photograph, no samples")
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(out, lambda part: _put(part, "\n".join(rows) + "\n"))
    return len(rows)


def _turns(
    photograph: PhotographTruth, form: Form, sheet: Sheet | None, writer: Writer, frame: PictureFrame
) -> Iterator[tuple[str, str]]:
    if form is Form.CHARACTERS:
        yield build_prompt(characters_request()), characters_answer(photograph, writer, frame)
        return
    assert sheet is not None
    for view in views_of(sheet):
        if view.region is not None:
            raise TruthError(
                "a sheet with regions is not taught; leave them out and cut the photographs instead"
            )
        request = request_of(view, form, space=writer.family.space, title=sheet.title)
        yield build_prompt(request), values_answer(photograph, list(view.fields), writer, frame)


def characters_answer(photograph: PhotographTruth, writer: Writer, frame: PictureFrame) -> str:
    """The answer that names every character of a photograph, line by line from left to right."""
    known = {*GLYPHS, *DISPLAY_UNITS}
    objects = []
    for value in photograph.values:
        if not value.characters:
            raise TruthError(
                f"{photograph.name}: {value.field} has no boxes of its characters, which form 'characters' teaches; "
                "use form 'values'"
            )
        for text, box in sorted(value.characters, key=lambda one: one[1][0] + one[1][2]):
            label = NAMES.get(text, text)
            if label in known and box[2] > box[0] and box[3] > box[1]:
                objects.append(TileObject(label, box=box))
    return writer.answer(Task.DETECT, objects, frame, as_given=True)


def values_answer(
    photograph: PhotographTruth, names: Sequence[str], writer: Writer, frame: PictureFrame
) -> str:
    """The answer that gives box, text and unit of every field, null where the photograph does not show it."""
    import numpy as np

    shown = {value.field: value for value in photograph.values}
    answer: dict[str, Any] = {}
    for name in names:
        value = shown.get(name)
        if value is None or value.box is None:
            answer[name] = None
            continue
        numbers = writer.to_model(np.array([value.box], np.float64), frame)[0].tolist()
        answer[name] = {"bbox_2d": numbers, "text": value.text, "unit": value.unit}
    return json.dumps(answer, ensure_ascii=False)


def _conversation(picture: str, prompt: str, answer: str) -> dict[str, Any]:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
