"""Damaged label files of every format: a named error, or right results only. `LABEL_MUTATIONS` sets how many."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.conversations.formats import read_conversations
from finetune.dataset.importers import READERS, read_labels
from finetune.errors import LabelFileError
from wsi.errors import FrameError

NUMBER = int(os.environ.get("LABEL_MUTATIONS", "60"))
BOXES = [(10 + 40 * i, 20 + 10 * i, 40 + 40 * i, 60 + 10 * i) for i in range(6)]
NAMES = ("cell", "nucleus")


def ring(box: tuple[int, ...]) -> list[list[int]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def of_coco(folder: Path) -> Path:
    rows = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1 + i % 2,
            "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
            "segmentation": [[v for corner in ring(b) for v in corner]],
        }
        for i, b in enumerate(BOXES)
    ]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 300}],
        "annotations": rows,
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
    }
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


def of_geojson(folder: Path) -> Path:
    rows = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring(b), ring(b)[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": NAMES[i % 2]}},
        }
        for i, b in enumerate(BOXES)
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    return folder / "a.geojson"


def of_labelme(folder: Path) -> Path:
    rows = [{"label": NAMES[i % 2], "points": ring(b), "shape_type": "polygon"} for i, b in enumerate(BOXES)]
    document = {"version": "5.4.1", "shapes": rows, "imagePath": "a.png", "imageHeight": 300, "imageWidth": 400}
    (folder / "a.json").write_text(json.dumps(document))
    return folder / "a.json"


def of_yolo(folder: Path) -> Path:
    rows = [
        f"{i % 2} {(b[0] + b[2]) / 2} {(b[1] + b[3]) / 2} {b[2] - b[0]} {b[3] - b[1]}"
        for i, b in enumerate(tuple(v / 1000 for v in box) for box in BOXES)
    ]
    (folder / "classes.txt").write_text("\n".join(NAMES))
    (folder / "a.txt").write_text("\n".join(rows))
    return folder / "a.txt"


def of_voc(folder: Path) -> Path:
    rows = "".join(
        f"<object><name>{NAMES[i % 2]}</name><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox></object>"
        for i, b in enumerate(BOXES)
    )
    (folder / "a.xml").write_text(f"<annotation><filename>a.png</filename>{rows}</annotation>")
    return folder / "a.xml"


def of_asap(folder: Path) -> Path:
    rows = "".join(
        f'<Annotation Name="n" Type="Polygon" PartOfGroup="{NAMES[i % 2]}"><Coordinates>'
        + "".join(f'<Coordinate Order="{j}" X="{x}" Y="{y}"/>' for j, (x, y) in enumerate(ring(b)))
        + "</Coordinates></Annotation>"
        for i, b in enumerate(BOXES)
    )
    (folder / "a.xml").write_text(f"<ASAP_Annotations><Annotations>{rows}</Annotations></ASAP_Annotations>")
    return folder / "a.xml"


def of_aperio(folder: Path) -> Path:
    rows = "".join(
        f'<Annotation Id="{i}" Name="{NAMES[i % 2]}" LineColor="255"><Regions><Region Id="1" Type="0"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring(b))
        + "</Vertices></Region></Regions></Annotation>"
        for i, b in enumerate(BOXES)
    )
    (folder / "a.xml").write_text(f"<Annotations>{rows}</Annotations>")
    return folder / "a.xml"


def of_label_image(folder: Path) -> Path:
    import cv2

    labels = np.zeros((300, 400), np.uint8)
    for value, (x0, y0, x1, y1) in enumerate(BOXES, 1):
        labels[y0:y1, x0:x1] = value
    cv2.imwrite(str(folder / "a.png"), labels)
    return folder / "a.png"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "coco": of_coco,
    "geojson": of_geojson,
    "labelme": of_labelme,
    "yolo": of_yolo,
    "voc": of_voc,
    "asap": of_asap,
    "aperio": of_aperio,
    "label-image": of_label_image,
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with one kind of damage: bytes changed, lost, put in, cut off, doubled."""
    found = bytearray(data)
    at = int(rng.integers(len(found)))
    match int(rng.integers(6)):
        case 0:
            for place in rng.integers(len(found), size=3).tolist():
                found[place] = int(rng.integers(256))
        case 1:
            del found[at : at + int(rng.integers(1, 60))]
        case 2:
            found[at:at] = bytes(rng.choice(list(b'{}[]<>/,:"0123456789-.eEnul'), 4).tolist())
        case 3:
            found = found[:at]
        case 4:
            found[at:at] = found[at : at + int(rng.integers(1, 200))]
        case 5:
            other = int(rng.integers(len(found)))
            found[at], found[other] = found[other], found[at]
    return bytes(found)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files(tmp_path, kind):
    path = FORMATS[kind](tmp_path)
    whole, data = read_labels(path), path.read_bytes()
    scale = 1000 if whole.relative else 1
    truth = {(item.name, tuple(round(v * scale, 6) for v in item.box)) for item in whole.found}
    assert {box for _, box in truth} == set(BOXES)
    rng = np.random.default_rng(3)
    ends = {"error": 0, "right": 0}
    for _ in range(NUMBER):
        path.write_bytes(mutated(data, rng))
        try:
            found = read_labels(path, kind)
        except (LabelFileError, FrameError) as error:
            ends["error"] += str(tmp_path) in str(error)
            continue
        ends["right"] += 1
        for item in found.found:
            x0, y0, x1, y1 = item.box
            assert np.isfinite(item.box).all()
            assert max(map(abs, item.box)) < 1e10
            assert item.point == (x0 == x1 and y0 == y1 and not item.ring) or not item.point
            item.name.encode()
        assert all(text.startswith(path.name) or str(tmp_path) in text for text in found.refused)
    assert sum(ends.values()) == NUMBER, ends


ROWS = [7, None, "x", [], {}, True, -1, 1e400, 10**400, "\ud800", float("nan"), [[]], {"a": [1]}, "nan", ""]


def damaged_rows(document: object, key: str, rng: np.random.Generator) -> int:
    """Put a value of another kind somewhere into one row; the number of the row."""
    rows = document[key]  # type: ignore[index]
    at = int(rng.integers(len(rows)))
    places: list[tuple[object, object]] = [(rows, at)]
    waiting: list[object] = [rows[at]]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []  # type: ignore[arg-type]
        places += [(value, each) for each in keys]
        waiting += [value[each] for each in keys]  # type: ignore[index]
    holder, place = places[int(rng.integers(len(places)))]
    holder[place] = ROWS[int(rng.integers(len(ROWS)))]  # type: ignore[index]
    return at


@pytest.mark.parametrize(("kind", "key"), [("coco", "annotations"), ("geojson", "features"), ("labelme", "shapes")])
def test_a_damaged_row_leaves_all_others_as_they_are(tmp_path, kind, key):
    path = FORMATS[kind](tmp_path)
    whole, data = read_labels(path), path.read_text()
    rng = np.random.default_rng(4)
    for _ in range(NUMBER):
        document = json.loads(data)
        at = damaged_rows(document, key, rng)
        path.write_text(json.dumps(document))
        found = read_labels(path, kind)
        expected = [(item.name, item.box, item.ring) for i, item in enumerate(whole.found) if i != at]
        others = [(item.name, item.box, item.ring) for item in found.found]
        assert [item for item in others if item in expected] == expected
        assert len(others) <= len(expected) + 1
        assert len(found.refused) <= 1


def test_damaged_conversations(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"<img>no{i}.png</img> {i}"}, {"role": "assistant", "content": "a"}]}
        for i in range(3)
    ]
    rows += [
        {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": "a"}]} for i in range(5)
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    path, rng, ends = tmp_path / "d.jsonl", np.random.default_rng(5), 0
    for _ in range(NUMBER):
        path.write_bytes(mutated(data, rng))
        try:
            found = read_conversations(path)
        except LabelFileError:
            ends += 1
            continue
        ends += 1
        assert not any(item.pictures for item in found)
        for item in found:
            text = "".join(part.get("text", "") for part in item.messages[0]["content"])
            assert "<img>" not in text
            assert "</img>" not in text
    assert ends == NUMBER


def test_every_reader_is_tried():
    assert set(FORMATS) | {"run"} == set(READERS)
