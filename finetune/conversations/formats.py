"""Conversations in the forms of other tools: ChatML messages, LLaVA, ShareGPT (LLaMA-Factory) and ms-swift.

Boxes in these files are bare numbers, so a file is only right for the coordinate space it was written for:

- ChatML, LLaVA and ShareGPT hold the family's own numbers. Of a family that counts px of the resized picture, tiles are
  written at the size it processes, because LLaMA-Factory and qwen-vl-finetune do not rescale.
- ms-swift holds px of the picture as stored and rescales by itself (`QWENVL_BBOX_FORMAT=new`, `--norm_bbox` as noted
  in the settings file that is written beside).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.conversations.boxes import Placeholders, sizes_of
from finetune.conversations.images import named_images, parts_of, require_no_other
from finetune.conversations.rows import read_rows
from finetune.dataset.cutting import LabelledCut
from finetune.errors import DatasetError, LabelFileError
from finetune.examples.conversation import Writer
from finetune.examples.label_source import TileReader
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.images.processor import ProcessorSettings
from qwenvl.prompts import Message, build_prompt
from qwenvl.request import Request, Task

FORMATS = ("chatml", "llava", "sharegpt", "ms-swift")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Conversation:
    """A conversation that was given, and the pictures it is about."""

    messages: tuple[Message, ...]
    pictures: tuple[Path, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of every picture."""

    def load(self) -> NDArray[np.uint8]:
        """The picture, uint8 RGB."""
        from PIL import Image

        with Image.open(self.pictures[0]) as picture:
            return np.asarray(picture.convert("RGB"))


class Conversations(list[Conversation]):
    """The conversations of a file, in its order, and the rows that were refused.

    Attributes
    ----------
    refused : tuple of str
        Each with its place in the file and the reason.
    """

    def __init__(self, rows: Iterable[Conversation] = (), refused: Sequence[str] = ()) -> None:
        super().__init__(rows)
        self.refused = tuple(refused)


def read_conversations(
    path: Path, writer: Writer | None = None, processor: ProcessorSettings | None = None
) -> Conversations:
    """Read JSON or JSONL in any of `FORMATS`, recognised row by row.

    Parameters
    ----------
    writer, processor : optional
        Of the model that will learn. ms-swift's boxes (px of the picture as it is stored, or shares of it) become its
        numbers.

    Returns
    -------
    Conversations
        A row in none of the forms, without its picture, or with boxes in placeholders without numbers is refused by
        itself; see `Conversations.refused`.

    Raises
    ------
    LabelFileError
        The file is no JSON, or no row of it can be used.
    """

    def numbers(places: list[float], size: tuple[int, int]) -> list[int]:
        if writer is None or processor is None:
            raise ValueError("ms-swift boxes become a model's numbers when a run reads them; here they need norm1000")
        row = np.array(places, np.float64).reshape(1, -1)
        return [int(value) for value in writer.to_model(row, processor.frame(*size))[0]]

    # Numbers of 0 to 1000 are the model's own, but of a family that counts px.
    relative = writer is None or writer.family.space is not CoordinateSpace.ABSOLUTE_RESIZED
    found: list[Conversation] = []
    refused: list[str] = []
    for where, row in read_rows(path):
        try:
            if isinstance(row, ValueError):
                raise row
            found.append(_conversation(row, path, numbers, relative))
        except ValueError as error:
            refused.append(f"{where}: {error}")
        except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
            refused.append(f"{where}: cannot be read ({error!r:.120})")
    if refused and not found:
        raise LabelFileError(f"{path}: none of its {len(refused)} rows can be used; {refused[0]}")
    return Conversations(found, refused)


_Numbers = Callable[[list[float], tuple[int, int]], list[int]]
"""From px of a picture of a size to a model's numbers."""


def _conversation(row: Any, path: Path, numbers: _Numbers, relative: bool) -> Conversation:
    turns = row.get("messages", row.get("conversations")) if isinstance(row, Mapping) else None
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"neither 'messages' nor 'conversations'; known forms are {', '.join(FORMATS)}")
    named = named_images(row, path.parent)
    boxes = Placeholders(row, named, numbers, relative)
    messages: list[Message] = []
    pictures: list[Path | None] = []
    for turn in turns:
        role = _ROLES.get(str(turn.get("role", turn.get("from")))) if isinstance(turn, Mapping) else None
        content = turn.get("content", turn.get("value")) if role else None
        if role is None or content is None:
            raise ValueError(f"a turn without role or words: {turn!a:.80}")
        parts = parts_of(content, role, path.parent)
        pictures += [part.get("file") for part in parts if part["type"] == "image"]
        filled = [
            {"type": "image"} if part["type"] == "image" else {"type": "text", "text": boxes.filled(part["text"])}
            for part in parts
        ]
        # Pictures first, as the families were trained and as the engine asks.
        filled.sort(key=lambda part: part["type"] != "image")
        if role == "assistant":
            messages.append({"role": role, "content": "".join(part.get("text", "") for part in filled)})
        else:
            messages.append({"role": role, "content": filled})
    boxes.require_used()
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise ValueError("no answer to learn")
    if pictures.count(None) != len(named):
        raise ValueError(f"{pictures.count(None)} places for pictures, {len(named)} pictures named")
    if not pictures:
        require_no_other(row)
    if isinstance(row.get("system"), str) and row["system"].strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": row["system"]}]})
    rest = iter(named)
    files = tuple(next(rest) if each is None else each for each in pictures)
    if len(files) > 1:
        raise ValueError(f"{len(files)} pictures; rows about one picture or none can be learned from")
    return Conversation(tuple(messages), files, sizes_of(files))


# ---------------------------------------------------------------------- writing


def write_conversations(
    cuts: Sequence[LabelledCut],
    reader: TileReader,
    request: Request,
    writer: Writer,
    processor: ProcessorSettings,
    folder: Path,
    form: str,
    *,
    overwrite: bool = False,
) -> Path:
    """Write tiles and their conversations for another tool.

    Parameters
    ----------
    form : str
        One of `FORMATS`.

    Returns
    -------
    Path
        The JSON or JSONL file; the tiles are in `images/` beside it, the settings in `README.json`.

    Raises
    ------
    DatasetError
        Unknown form, or the folder holds something already.
    """
    from PIL import Image

    if form not in FORMATS:
        raise DatasetError(f"form {form!r} is none of {', '.join(FORMATS)}")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise DatasetError(f"{folder} is not empty; name another folder, or say --overwrite")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    absolute = writer.family.space is CoordinateSpace.ABSOLUTE_RESIZED
    rows = []
    for number, cut in enumerate(cuts):
        pixels = reader.read(cut.slide, cut.tile)
        frame = processor.frame(cut.tile.width, cut.tile.height)
        picture = Image.fromarray(pixels)
        if absolute and form != "ms-swift" and frame.resized:
            picture = picture.resize((frame.processed_width, frame.processed_height), Image.Resampling.BICUBIC)
        name = f"images/{re.sub(r'[^A-Za-z0-9._-]', '_', cut.slide)}_{number:05d}.png"
        picture.save(folder / name)
        rows.append(_row(form, f"{cut.slide}_{number}", name, cut, request, writer, frame))
    single = form in ("llava", "sharegpt")
    path = folder / ("data.json" if single else "data.jsonl")
    partial = path.with_suffix(".part")
    if single:
        partial.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
    settings = _settings(form, writer, processor, absolute)
    (folder / "README.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return path


def _row(
    form: str, row_id: str, image: str, cut: LabelledCut, request: Request, writer: Writer, frame: PictureFrame
) -> dict[str, object]:
    prompt = build_prompt(request)
    objects = [item for item in cut.objects if item.label in request.labels]
    answer = writer.answer(request.task, objects, frame)
    if form == "ms-swift":
        return _swift_row(image, prompt, answer, request, writer, frame)
    if form == "chatml":
        return {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]},
                {"role": "assistant", "content": answer},
            ]
        }
    if form == "llava":
        turns = [{"from": "human", "value": f"<image>\n{prompt}"}, {"from": "gpt", "value": answer}]
        return {"id": row_id, "image": image, "conversations": turns}
    return {
        "messages": [{"role": "user", "content": f"<image>{prompt}"}, {"role": "assistant", "content": answer}],
        "images": [image],
    }


def _swift_row(
    image: str, prompt: str, answer: str, request: Request, writer: Writer, frame: PictureFrame
) -> dict[str, object]:
    """Placeholders in the answer, boxes as px of the picture that is stored."""
    base: dict[str, Any] = {"images": [image], "channel": "labels"}
    if request.task is Task.COUNT:
        return base | {
            "messages": [{"role": "user", "content": f"<image>{prompt}"}, {"role": "assistant", "content": answer}]
        }
    # The order of the answer, and the labels' own numbers, unrounded by any family.
    read = writer.read(answer, request, frame).objects
    key = "bbox_2d" if request.task is Task.DETECT else "point_2d"
    places = [[round(v, 2) for v in (o.box or o.point or ())] for o in read]
    words = ", ".join(f'{{"{key}": <bbox>, "label": "<ref-object>"}}' for _ in read)
    return base | {
        "messages": [{"role": "user", "content": f"<image>{prompt}"}, {"role": "assistant", "content": f"[{words}]"}],
        "objects": {"ref": [o.label for o in read], "bbox": places, "bbox_type": "real", "image_id": [0] * len(read)},
    }


def _settings(form: str, writer: Writer, processor: ProcessorSettings, absolute: bool) -> dict[str, object]:
    facts: dict[str, Any] = {
        "form": form,
        "family": writer.family.name,
        "coordinates": str(writer.family.space),
        "min_pixels": processor.min_pixels,
        "max_pixels": processor.max_pixels,
    }
    if form == "ms-swift":
        facts["environment"] = {"QWENVL_BBOX_FORMAT": "new"}
        facts["arguments"] = {"norm_bbox": "none" if absolute else "norm1000"}
        facts["coordinates"] = "px of the stored picture; ms-swift rescales"
    if form == "sharegpt":
        facts["dataset_info"] = {
            "labels": {
                "file_name": "data.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            }
        }
        facts["image_max_pixels"] = processor.max_pixels
    return facts
