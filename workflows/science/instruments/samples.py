"""Training samples: photographs with known values as conversations, in the words and coordinates of a family."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qwenvl.images.geometry import PictureFrame
from qwenvl.images.processor import ProcessorSettings
from qwenvl.prompts import build_prompt
from qwenvl.writing import Writer
from workflows.science.instruments.asking import VALUES, views_of
from workflows.science.instruments.errors import TruthError
from workflows.science.instruments.truth import PhotographTruth, ReadingTruth
from workflows.science.instruments.values.sheet import Sheet
from workflows.store.folder import replace_whole

Turns = Callable[[PhotographTruth, PictureFrame], Iterable[tuple[str, str]]]
"""Questions about a photograph, with their answers."""


def write_samples(
    folders: Sequence[Path], out: Path, *, sheet: Sheet, writer: Writer, processor: ProcessorSettings
) -> int:
    """Write a conversation per photograph (ChatML, one per line), to learn from with `qwenvl finetune`.

    Parameters
    ----------
    folders : sequence of Path
        Each with a truth and its photographs. They are named in the file relative to it, not copied.
    out : Path
        The JSONL file.
    sheet : Sheet
        The fields that are taught.
    writer, processor
        Of the checkpoint that is to learn.

    Returns
    -------
    int
        Conversations written.

    Raises
    ------
    TruthError
        A folder has no truth, a photograph is missing, or the sheet has regions.
    """
    views = views_of(sheet)
    if any(view.region is not None for view in views):
        raise TruthError("a sheet with regions is not taught; leave them out and cut the photographs instead")

    def turns(photograph: PhotographTruth, frame: PictureFrame) -> Iterator[tuple[str, str]]:
        for view in views:
            request = VALUES.request(view, space=writer.family.space, title=sheet.title)
            yield build_prompt(request), values_answer(photograph, list(view.fields), writer, frame)

    return write_turns(folders, out, turns, processor)


def write_turns(folders: Sequence[Path], out: Path, turns: Turns, processor: ProcessorSettings) -> int:
    """Write the conversations that `turns` makes of the photographs of some folders; how many they are.

    Raises
    ------
    TruthError
        A folder has no truth, or a photograph is missing.
    """
    rows: list[str] = []
    for folder in folders:
        for photograph in ReadingTruth.read(folder).photographs:
            path = folder / photograph.name
            if not path.is_file():
                raise TruthError(f"{path} is named in the truth and does not exist")
            picture = os.path.relpath(path.resolve(), out.resolve().parent)
            frame = processor.frame(photograph.width, photograph.height)
            for prompt, answer in turns(photograph, frame):
                rows.append(json.dumps(_conversation(picture, prompt, answer), ensure_ascii=False))
    if not rows:
        raise TruthError("no photograph, no samples")
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(out, lambda part: _put(part, "\n".join(rows) + "\n"))
    return len(rows)


def values_answer(photograph: PhotographTruth, names: Sequence[str], writer: Writer, frame: PictureFrame) -> str:
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


def _conversation(picture: str, prompt: str, answer: str) -> dict[str, object]:
    content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
