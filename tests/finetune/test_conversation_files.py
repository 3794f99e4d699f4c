"""Conversations as other programs write them: used with their image, or refused row by row, never taught without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.conversations.formats import read_conversations
from finetune.errors import LabelFileError

THOUSAND = {"bbox_type": "norm1000"}
ANSWER = {"role": "assistant", "content": "a cell"}
GOOD = {"messages": [{"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "2"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub dir").mkdir()
    for name in ("a.png", "sub dir/b.png"):
        Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    return tmp_path


def asked(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, ANSWER], **more}


def parts(image: Any) -> list[Any]:
    return [image, {"type": "text", "text": "What is it?"}]


QWEN = {
    "id": "1",
    "conversations": [
        {"from": "user", "value": "Picture 1: <img>a.png</img>\nWhat is it?"},
        {"from": "assistant", "value": "a cell"},
    ],
}

# A row, and words of its refusal; None where it is used with image a.png and the question "What is it?".
ROWS = [
    ("Qwen-VL", QWEN, None),
    ("Qwen-VL without Picture", asked("<img>a.png</img>What is it?"), None),
    (
        "LLaVA",
        {
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a cell"}],
        },
        None,
    ),
    ("paths in objects", asked("<image>What is it?", images=[{"path": "a.png", "bytes": None}]), None),
    ("one object", asked("<image>What is it?", image={"path": "a.png"}), None),
    ("image_url", asked(parts({"type": "image_url", "image_url": {"url": "a.png"}})), None),
    ("image_url as a text", asked(parts({"type": "image_url", "image_url": "a.png"})), None),
    (
        "responses",
        asked([{"type": "input_image", "image_url": "a.png"}, {"type": "input_text", "text": "What is it?"}]),
        None,
    ),
    ("parts without type", asked([{"image": "a.png"}, {"text": "What is it?"}]), None),
    ("path in a part", asked(parts({"type": "image", "path": "a.png"})), None),
    ("place in a part", asked(parts({"type": "image"}), images=["a.png"]), None),
    ("file:// whole", asked(parts({"type": "image", "image": "file://{folder}/a.png"})), None),
    ("file:// here", asked(parts({"type": "image", "image": "file://a.png"})), None),
    ("file://localhost", asked(parts({"type": "image", "image": "file://localhost{folder}/a.png"})), None),
    ("file:// with %20", asked("<image>What is it?", images=["file://{folder}/sub%20dir/../a.png"]), None),
    ("other slashes", asked("<image>What is it?", images=["sub dir\\..\\a.png"]), None),
    ("vision marks", asked("<|vision_start|><|image_pad|><|vision_end|>What is it?", images=["a.png"]), None),
    ("other keys beside", asked("<image>What is it?", images=["a.png"], source="x.jpg"), None),
    ("address", asked(parts({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}})), "is not fetched"),
    ("data", asked(parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}})), "inside the row"),
    ("bytes", asked("<image>x", images=[{"bytes": "AA", "path": None}]), "an image without a path"),
    ("missing", asked("<image>x", images=["no.png"]), "does not exist"),
    ("broken", asked("<image>x", images=["broken.png"]), "cannot be read"),
    ("missing in a tag", asked("Picture 1: <img>no.png</img>x"), "does not exist"),
    ("half a tag", asked("<img>a.png x"), "no place of an image that is known"),
    ("tag of HTML", asked('<img src="a.png">x'), "no place of an image that is known"),
    ("tag of HTML, closed", asked("<IMG src=a.png />x"), "no place of an image that is known"),
    ("a name among parts", asked(["a.png", "x"]), "'a.png' seems to name an image"),
    ("another place", asked("<image_1>x", images=["a.png"]), "no place of an image that is known"),
    ("markdown", asked("![x](a.png) x"), "no place of an image that is known"),
    ("another key", asked("What is it?", image_path="a.png"), "'image_path' seems to name an image"),
    ("keys nested", asked("What is it?", media=[{"path": "a.png"}]), "'media' seems to name an image"),
    ("no place", asked("What is it?", images=["a.png"]), "0 places for pictures, 1 pictures named"),
    ("two keys", asked("<image>x", images=["a.png"], image="a.png"), "are both there"),
    ("two images", asked("<image><image>x", images=["a.png", "sub dir/b.png"]), "2 pictures"),
    ("video", asked("x", videos=["a.mp4"]), "videos cannot be learned from"),
    ("video part", asked([{"type": "video", "video": "a.mp4"}]), "type 'video'"),
    ("video place", asked("<video>x"), "no place of an image"),
    (
        "image in the answer",
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": parts({"image": "a.png"})}]},
        "an image in a turn of the assistant",
    ),
    ("no answer", {"messages": [{"role": "user", "content": "x"}]}, "no answer to learn"),
    ("unknown role", {"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "without role or words"),
    ("null", {"messages": [{"role": "user", "content": None}, ANSWER]}, "without role or words"),
    ("number", 7, "neither 'messages' nor 'conversations'"),
    ("list", [ANSWER], "neither 'messages' nor 'conversations'"),
    ("half a letter", asked("\ud800"), "no valid text"),
    ("more names", asked("<ref-object>"), "more <ref-object> than names"),
    (
        "boxes left",
        asked("<image><bbox>", images=["a.png"], objects=THOUSAND | {"bbox": [[1, 2, 3, 4]] * 2}),
        "1 <bbox> for 2",
    ),
    (
        "box of words",
        asked("<image><bbox>", images=["a.png"], objects=THOUSAND | {"bbox": [["a", 2, 3, 4]]}),
        "neither a box of 4 numbers",
    ),
    (
        "box too far",
        asked("<image><bbox>", images=["a.png"], objects=THOUSAND | {"bbox": [[1, 2, 3, 4000]]}),
        "no place of bbox_type norm1000",
    ),
]


@pytest.mark.parametrize(("name", "row", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_rows(folder, name, row, words):
    text = json.dumps(row).replace("{folder}", str(folder))
    path = folder / "data.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{text}\n{json.dumps(GOOD)}\n")
    found = read_conversations(path)
    assert len(found) == 3 - (words is not None)
    assert found[0].pictures == found[-1].pictures == ()
    if words is None:
        assert not found.refused
        (picture,) = found[1].pictures
        assert picture.resolve() == (folder / "a.png").resolve()
        assert found[1].sizes == ((48, 32),)
        assert found[1].messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        assert found[1].messages[1]["content"] == "a cell"
    else:
        assert len(found.refused) == 1
        assert found.refused[0].startswith("data.jsonl row 1 (line 2): ")
        assert words in found.refused[0]
        (folder / "alone.json").write_text(f"[{text}]")
        with pytest.raises(LabelFileError, match="none of its 1 rows can be used"):
            read_conversations(folder / "alone.json")


def test_the_system_prompt_of_a_row_is_taught(folder):
    (folder / "d.json").write_text(json.dumps([GOOD | {"system": "Be brief."}]))
    first = read_conversations(folder / "d.json")[0].messages[0]
    assert first == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}


LAYOUTS = {
    "lines": "{0}\n{1}\n",
    "list": "[{0},\n{1}]",
    "pretty": "{2}\n{3}\n",
    "commas": "{2},\n{3}",
    "one line": "{0} {1}",
    "byte order mark": "\ufeff{0}\n{1}",
    "mark and list": "\ufeff[{0}, {1}]",
    "empty lines": "\n\n{0}\r\n\r\n{1}\r\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_layouts(folder, layout, encoding):
    row = asked("line\u2028break \x85 \x1c", note=1)
    texts = [json.dumps(row, ensure_ascii=False, indent=indent) for indent in (None, 2)]
    goods = [json.dumps(GOOD, indent=indent) for indent in (None, 2)]
    text = LAYOUTS[layout].format(texts[0], goods[0], texts[1], goods[1])
    (folder / "d.json").write_bytes(text.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    found = read_conversations(folder / "d.json")
    assert not found.refused
    assert [item.messages[0]["content"][0]["text"] for item in found] == ["line\u2028break \x85 \x1c", "What is 1+1?"]


def test_a_broken_row_ends_where_the_next_begins(folder):
    good, pretty = json.dumps(GOOD), json.dumps(GOOD, indent=2)
    text = f'{good}\n{{"messages": [\n{pretty}\n{good[:-4]}\n{good}\n{{"messages": "\ud800"}}\n'
    (folder / "d.jsonl").write_bytes(text.encode("utf-8", "surrogatepass") + b'{"messages": "\xff"}\n' + good.encode())
    found = read_conversations(folder / "d.jsonl")
    assert len(found) == 4
    assert len(found.refused) == 4
    assert ["is no JSON" in text for text in found.refused] == [True, True, False, False]


@pytest.mark.parametrize("text", ["[1, 2", "", "{", "7", "[" * 100_000, '{"a": ' * 100_000])
def test_files_that_are_none(folder, text):
    (folder / "d.json").write_text(text)
    if text:
        with pytest.raises(LabelFileError):
            read_conversations(folder / "d.json")
    else:
        assert read_conversations(folder / "d.json") == []
