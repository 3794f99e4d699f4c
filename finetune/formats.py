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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.conversation import Writer
from finetune.cutting import LabelledCut
from finetune.errors import DatasetError, LabelFileError
from finetune.label_source import TileReader
from qwenvl.geometry import CoordinateSpace, PictureFrame
from qwenvl.processor import ProcessorSettings
from qwenvl.prompts import Message, build_prompt
from qwenvl.request import Request, Task

FORMATS = ("chatml", "llava", "sharegpt", "ms-swift")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SLOT = re.compile(r"<image>\n?")


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


def read_conversations(
    path: Path, writer: Writer | None = None, processor: ProcessorSettings | None = None
) -> list[Conversation]:
    """Read JSON or JSONL in any of `FORMATS`, told apart row by row.

    Parameters
    ----------
    writer, processor : optional
        Of the model that will learn. ms-swift's boxes (px of the picture as it is stored, or shares of it) become its
        numbers.

    Raises
    ------
    LabelFileError
        A row is in none of the forms, a picture is missing, or it has boxes in placeholders without numbers.
    """

    def numbers(places: list[float], size: tuple[int, int]) -> list[int]:
        if writer is None or processor is None:
            raise LabelFileError(
                f"{path.name}: ms-swift boxes become a model's numbers when a run reads them; here they need norm1000"
            )
        row = np.array(places, np.float64).reshape(1, -1)
        return [int(value) for value in writer.to_model(row, processor.frame(*size))[0]]

    return [_conversation(row, path, number, numbers) for number, row in enumerate(_rows(path))]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8").strip()
    try:
        if text.startswith("["):
            yield from json.loads(text)
        else:
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
    except ValueError as error:
        raise LabelFileError(f"{path} is neither JSON nor JSONL: {error}") from error


_Numbers = Callable[[list[float], tuple[int, int]], list[int]]
"""From px of a picture of a size to a model's numbers."""


def _conversation(row: dict[str, Any], path: Path, number: int, numbers: _Numbers) -> Conversation:
    where = f"{path.name} row {number}"
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list) or not turns:
        raise LabelFileError(
            f"{where}: neither 'messages' nor 'conversations'; known forms are {', '.join(FORMATS)}"
        )
    named = row.get("images", row.get("image", []))
    named = [named] if isinstance(named, str) else list(named or [])
    sizes = _sizes([path.parent / name for name in named], where)
    boxes = _placed_boxes(row, where, sizes, numbers)
    refs = iter((row.get("objects") or {}).get("ref", []))
    messages: list[Message] = []
    inline: list[str] = []
    for turn in turns:
        role = _ROLES.get(str(turn.get("role", turn.get("from"))))
        content = turn.get("content", turn.get("value"))
        if role is None or content is None:
            raise LabelFileError(f"{where}: a turn without role or words: {str(turn)[:80]}")
        if isinstance(content, list):
            inline += [
                str(part.get("image") or part.get("image_url"))
                for part in content
                if part.get("type") in ("image", "image_url")
            ]
            parts: list[dict[str, Any]] = [
                {"type": "image"}
                if part.get("type") in ("image", "image_url")
                else {"type": "text", "text": part.get("text", part.get("value", ""))}
                for part in content
            ]
        else:
            text = re.sub("<ref-object>", lambda _: next(refs, ""), str(content))
            text = re.sub("<bbox>", lambda _, b=boxes: _next_box(b, where), text)  # type: ignore[misc]
            parts = []
            pieces = _SLOT.split(text) if role == "user" else [text]
            for i, piece in enumerate(pieces):
                parts += [{"type": "image"}] if i else []
                parts += [{"type": "text", "text": piece}] if piece else []
        # Pictures first, as the families were trained and as the engine asks.
        parts.sort(key=lambda part: part["type"] != "image")
        if role == "assistant":
            messages.append({"role": role, "content": "".join(part.get("text", "") for part in parts)})
        else:
            messages.append({"role": role, "content": parts})
    pictures = tuple(path.parent / name for name in (named or inline))
    slots = sum(
        part["type"] == "image" for m in messages if isinstance(m["content"], list) for part in m["content"]
    )
    if slots != len(pictures):
        raise LabelFileError(f"{where}: {slots} places for pictures, {len(pictures)} pictures named")
    if len(pictures) > 1:
        raise LabelFileError(
            f"{where}: {len(pictures)} pictures; rows about one picture or none can be learned from"
        )
    return Conversation(tuple(messages), pictures, sizes if named else _sizes(pictures, where))


def _sizes(pictures: Sequence[Path], where: str) -> tuple[tuple[int, int], ...]:
    """Width and height of every picture."""
    from PIL import Image

    sizes = []
    for picture in pictures:
        if not picture.is_file():
            raise LabelFileError(f"{where}: picture {picture} does not exist")
        with Image.open(picture) as opened:
            sizes.append(opened.size)
    return tuple(sizes)


def _placed_boxes(
    row: dict[str, Any], where: str, sizes: Sequence[tuple[int, int]], numbers: _Numbers
) -> Iterator[list[int]]:
    """Boxes and points of an ms-swift row in the model's numbers, in order."""
    objects = row.get("objects") or {}
    places = objects.get("bbox") or []
    kind = objects.get("bbox_type", "real")
    if kind == "norm1000" or not places:
        return iter(places)
    if kind not in ("real", "norm1"):
        raise LabelFileError(f"{where}: bbox_type {kind!r} is none of real, norm1, norm1000")
    owners = objects.get("image_id") or [0] * len(places)
    if len(owners) != len(places) or not all(isinstance(i, int) and 0 <= i < len(sizes) for i in owners):
        raise LabelFileError(f"{where}: image_id does not name a picture of the row for every box")
    found = []
    for place, owner in zip(places, owners, strict=True):
        size = sizes[owner]
        if len(place) not in (2, 4):
            raise LabelFileError(f"{where}: {place} is neither a box of 4 numbers nor a point of 2")
        scale = [float(size[i % 2]) if kind == "norm1" else 1.0 for i in range(len(place))]
        found.append(numbers([float(v) * s for v, s in zip(place, scale, strict=True)], size))
    return iter(found)


def _next_box(boxes: Iterator[list[int]], where: str) -> str:
    box = next(boxes, None)
    if box is None:
        raise LabelFileError(f"{where}: more <bbox> than boxes")
    return json.dumps(box)


# ---------------------------------------------------------------------- writing


def write_conversations(
    cuts: Sequence[LabelledCut], reader: TileReader, request: Request, writer: Writer, processor: ProcessorSettings,
    folder: Path, form: str, *, overwrite: bool = False,
) -> Path:  # fmt: skip
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
            picture = picture.resize(
                (frame.processed_width, frame.processed_height), Image.Resampling.BICUBIC
            )
        name = f"images/{re.sub(r'[^A-Za-z0-9._-]', '_', cut.slide)}_{number:05d}.png"
        picture.save(folder / name)
        rows.append(_row(form, f"{cut.slide}_{number}", name, cut, request, writer, frame))
    single = form in ("llava", "sharegpt")
    path = folder / ("data.json" if single else "data.jsonl")
    partial = path.with_suffix(".part")
    if single:
        partial.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    partial.replace(path)
    settings = _settings(form, writer, processor, absolute)
    (folder / "README.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return path


def _row(
    form: str, row_id: str, image: str, cut: LabelledCut, request: Request, writer: Writer, frame: PictureFrame
) -> dict[str, Any]:  # fmt: skip
    prompt = build_prompt(request)
    objects = [item for item in cut.objects if item.label in request.labels]
    answer = writer.answer(request.task, objects, frame)
    if form == "ms-swift":
        return _swift_row(image, prompt, answer, request, writer, frame)
    if form == "chatml":
        return {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}],
                },
                {"role": "assistant", "content": answer},
            ]
        }
    if form == "llava":
        turns = [{"from": "human", "value": f"<image>\n{prompt}"}, {"from": "gpt", "value": answer}]
        return {"id": row_id, "image": image, "conversations": turns}
    return {
        "messages": [
            {"role": "user", "content": f"<image>{prompt}"},
            {"role": "assistant", "content": answer},
        ],
        "images": [image],
    }


def _swift_row(
    image: str, prompt: str, answer: str, request: Request, writer: Writer, frame: PictureFrame
) -> dict[str, Any]:
    """Placeholders in the answer, boxes as px of the picture that is stored."""
    base: dict[str, Any] = {"images": [image], "channel": "labels"}
    if request.task is Task.COUNT:
        return base | {
            "messages": [
                {"role": "user", "content": f"<image>{prompt}"},
                {"role": "assistant", "content": answer},
            ]
        }
    # The order of the answer, and the labels' own numbers, unrounded by any family.
    read = writer.read(answer, request, frame).objects
    key = "bbox_2d" if request.task is Task.DETECT else "point_2d"
    places = [[round(v, 2) for v in (o.box or o.point or ())] for o in read]
    words = ", ".join(f'{{"{key}": <bbox>, "label": "<ref-object>"}}' for _ in read)
    return base | {
        "messages": [
            {"role": "user", "content": f"<image>{prompt}"},
            {"role": "assistant", "content": f"[{words}]"},
        ],
        "objects": {
            "ref": [o.label for o in read],
            "bbox": places,
            "bbox_type": "real",
            "image_id": [0] * len(read),
        },
    }


def _settings(form: str, writer: Writer, processor: ProcessorSettings, absolute: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "form": form, "family": writer.family.name, "coordinates": str(writer.family.space),
        "min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels,
    }  # fmt: skip
    if form == "ms-swift":
        facts["environment"] = {"QWENVL_BBOX_FORMAT": "new"}
        facts["arguments"] = {"norm_bbox": "none" if absolute else "norm1000"}
        facts["coordinates"] = "px of the stored picture; ms-swift rescales"
    if form == "sharegpt":
        facts["dataset_info"] = {
            "labels": {
                "file_name": "data.json", "formatting": "sharegpt",
                "columns": {"messages": "messages", "images": "images"},
                "tags": {
                    "role_tag": "role", "content_tag": "content", "user_tag": "user",
                    "assistant_tag": "assistant", "system_tag": "system",
                },
            }
        }  # fmt: skip
        facts["image_max_pixels"] = processor.max_pixels
    return facts
