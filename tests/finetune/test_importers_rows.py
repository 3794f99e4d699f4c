"""One bad row names itself and the rest is used: COCO, VOC, ASAP, Aperio, YOLO, LabelMe, told apart by content."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.dataset.build import BuildOptions, build_dataset
from finetune.dataset.importers import READERS, read_labels
from finetune.dataset.importers.rows import root_tag
from finetune.errors import DatasetError, LabelFileError

BOX = (10, 20, 110, 80)
RING = [10, 20, 110, 20, 110, 80, 10, 80]


def picture(path: Path, width: int = 600, height: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    return path


def coco(path: Path, *rows: Any, **changes: Any) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 600, "height": 400}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1} | row if isinstance(row, dict) else row
            for i, row in enumerate(rows, 1)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    } | changes
    path.write_text(json.dumps(document))
    return path


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO runs of a mask (height, width)."""
    flat, found, value = mask.flatten(order="F").astype(int), [0], 0
    for px in flat.tolist():
        if px != value:
            found.append(0)
            value = px
        found[-1] += 1
    return found


def compressed(counts: list[int]) -> str:
    """The text of pycocotools' `rleToString`."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        while True:
            group, x = x & 31, x >> 5
            more = x != -1 if group & 16 else x != 0
            text += chr((group | 32 if more else group) + 48)
            if not more:
                break
    return text


MASK = np.zeros((400, 600), bool)
MASK[20:80, 10:110] = True

# What a row states, the boxes that come of it, words of its refusal.
COCO = [
    ("box", {"bbox": [10, 20, 100, 60]}, [BOX], None),
    ("no box, polygon", {"segmentation": [RING]}, [BOX], None),
    ("box of zeros, polygon", {"bbox": [0, 0, 0, 0], "segmentation": [RING]}, [BOX], None),
    ("corners by mode", {"bbox": [10, 20, 110, 80], "bbox_mode": 0}, [], "bbox_mode 0 is not x, y, width"),
    ("corners by name", {"bbox": [10, 20, 110, 80], "bbox_mode": "XYXY"}, [], "bbox_mode 'XYXY' is not x, y"),
    ("the usual mode", {"bbox": [10, 20, 100, 60], "bbox_mode": 1}, [BOX], None),
    ("empty box, polygon", {"bbox": [], "segmentation": [RING]}, [BOX], None),
    ("null box, polygon", {"bbox": None, "segmentation": [RING]}, [BOX], None),
    ("no box, flat polygon", {"segmentation": RING}, [BOX], None),
    ("no box, two polygons", {"segmentation": [RING, [200, 5, 210, 5, 210, 15]]}, [(10, 5, 210, 80)], None),
    ("no box, runs", {"segmentation": {"size": [400, 600], "counts": runs(MASK)}}, [BOX], None),
    (
        "null box, packed runs",
        {"bbox": None, "segmentation": {"size": [400, 600], "counts": compressed(runs(MASK))}},
        [BOX],
        None,
    ),
    ("runs of another size", {"segmentation": {"size": [4, 6], "counts": [3, 2, 19]}}, [], "its mask measures 6x4"),
    ("runs too short", {"segmentation": {"size": [400, 600], "counts": [3, 2]}}, [], "covers 5 px"),
    ("empty runs", {"segmentation": {"size": [400, 600], "counts": [240000]}}, [], "its mask is empty"),
    ("no box", {}, [], "no bbox, and no polygon"),
    ("null box", {"bbox": None}, [], "its bbox is None"),
    ("empty box", {"bbox": []}, [], r"its bbox is \[\]"),
    ("three numbers", {"bbox": [1, 2, 3]}, [], "not x, y, width, height"),
    ("words", {"bbox": ["a", 1, 2, 3]}, [], "'a' is no number"),
    ("true", {"bbox": [True, 1, 2, 3]}, [], "True is no number"),
    ("endless", {"bbox": [float("inf"), 1, 2, 3]}, [], "lies in no image"),
    ("400 digits", {"bbox": [10**400, 1, 2, 3]}, [], "more than 30 digits"),
    ("another image", {"image_id": 7, "bbox": [1, 2, 3, 4]}, [], "its image 7 is not in the file"),
    ("another category", {"category_id": None, "bbox": [1, 2, 3, 4]}, [], "its category None is not in the file"),
    ("ids as texts", {"image_id": "1", "category_id": 1.0, "bbox": [10, 20, 100, 60]}, [BOX], None),
    ("no row", [1], [], "is no annotation"),
]


@pytest.mark.parametrize(("name", "row", "boxes", "words"), COCO, ids=[case[0] for case in COCO])
def test_coco_rows(tmp_path, name, row, boxes, words):
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "c.json", row, {"bbox": [300, 300, 10, 10]})
    data = build_dataset("d", [(path, tmp_path)])
    assert [label.box for label in data.labels] == [*boxes, (300, 300, 310, 310)]
    if words is None:
        assert not data.refused
        assert len(data.areas) == 1
    else:
        assert len(data.refused) == 1
        assert data.refused[0].startswith("c.json annotation")
        assert re.search(words, data.refused[0])
        assert data.notes[0] == "1 labels left out, 1 used"
        # An object that is there and was refused is never taught as absent.
        assert len(data.areas) == (1 if "image_id" in (row if isinstance(row, dict) else {}) else 0)


def test_coco_ids_that_mean_two_things(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
    found = read_labels(coco(tmp_path / "c.json", {"bbox": [1, 2, 3, 4]}, images=images))
    assert not found.found
    assert "two rows have the image id 1" in found.refused[0]


@pytest.mark.parametrize("root", ["<annotation>", '<annotation verified="yes">', "<annotation\n  x='1'>"])
@pytest.mark.parametrize("start", ["", "<?xml version='1.0' encoding='utf-8'?>\n", f"<!-- {'x' * 900} -->", "\ufeff"])
def test_voc_roots(tmp_path, root, start):
    picture(tmp_path / "a.png")
    path = tmp_path / "a.xml"
    path.write_text(
        f"{start}{root}<filename>a</filename><size><width>600</width><height>400</height></size>"
        "<object><name>cell</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>110</xmax><ymax>80</ymax></bndbox>"
        "</object><object><name>cell</name><bndbox><xmin>1_0</xmin></bndbox></object><object/></annotation>",
        encoding="utf-8",
    )
    data = build_dataset("d", [(path, tmp_path)])
    assert [label.box for label in data.labels] == [BOX]
    assert [text.split(": ")[0] for text in data.refused] == ["a.xml object 1", "a.xml object 2"]
    assert "'1_0' is no number" in data.refused[0]


def test_a_broken_file_of_a_folder_is_refused_alone(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(
        "<annotation><filename>a.png</filename><object><name>cell</name><bndbox><xmin>11</xmin><ymin>21</ymin>"
        "<xmax>110</xmax><ymax>80</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "b.xml").write_text("<annotation><filename>b.png")
    found = read_labels(tmp_path)  # images beside the labels make no label maps of the folder
    assert (found.format, len(found.found)) == ("voc", 1)
    assert "b.xml is not XML" in found.refused[0]


def test_slide_viewers_row_by_row(tmp_path):
    square = ((10, 20), (110, 20), (110, 80), (10, 80))

    def coordinates(points):
        return "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))

    rows = [
        ("Polygon", square),
        ("Dot", [(5, 6)]),
        ("PointSet", [(1, 2), (3, 4)]),
        ("Measurement", square[:2]),
        ("Polygon", [("x", 1), (2, 3), (4, 5)]),
        ("Polygon", []),
        ("Polygon", [("nan", 1), (2, 3), (4, 5)]),
    ]
    items = "".join(
        f'<Annotation Name="n{i}" Type="{kind}" PartOfGroup="tumor"><Coordinates>{coordinates(points)}</Coordinates>'
        "</Annotation>"
        for i, (kind, points) in enumerate(rows)
    )
    (tmp_path / "asap.xml").write_text(f"<ASAP_Annotations><Annotations>{items}</Annotations></ASAP_Annotations>")
    found = read_labels(tmp_path / "asap.xml")
    assert [(item.box, item.point) for item in found.found] == [
        (BOX, False),
        ((5, 6, 5, 6), True),
        ((1, 2, 1, 2), True),
        ((3, 4, 3, 4), True),
    ]
    assert "1 lines left out" in found.notes[0]
    assert [next(words for words in ("no number", "no coordinates") if words in text) for text in found.refused] == [
        "no number",
        "no coordinates",
        "no number",
    ]

    def vertices(points):
        return "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)

    regions = "".join(
        f'<Region Id="{i}" Type="{kind}"><Vertices>{vertices(points)}</Vertices></Region>'
        for i, (kind, points) in enumerate([(0, square), (2, (square[0], square[2])), (3, square[:2]), (0, [("a", 1)])])
    )
    (tmp_path / "aperio.xml").write_text(
        f'<Annotations><Annotation Id="1" Name="" LineColor="green"><Regions>{regions}</Regions></Annotation>'
        f'<Annotation Id="2" Name="t"><Regions>{regions}</Regions></Annotation></Annotations>'
    )
    found = read_labels(tmp_path / "aperio.xml")
    assert [(item.name, item.box) for item in found.found] == [("t", BOX)] * 2
    assert sum("'green' is no number" in text for text in found.refused) >= 2
    assert "lines left out" in found.notes[0]


# ---------------------------------------------------------------------- YOLO


def yolo(folder: Path, rows: str, name: str = "a", names: str | None = "names: [cell, nucleus]\nnc: 2\n") -> Path:
    picture(folder / "images" / f"{name}.png")
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / f"{name}.txt").write_bytes(rows.encode())
    if names is not None:
        (folder / "data.yaml").write_text(names)
    return folder


YOLO = [
    ("box", "0 0.1 0.125 0.16666666 0.15", [("cell", (10, 20, 110, 80))], None),
    ("box with its confidence", "1 0.1 0.125 0.16666666 0.15 0.93", [("nucleus", (10, 20, 110, 80))], None),
    ("outline", "1 0.016667 0.05 0.183333 0.05 0.183333 0.2 0.016667 0.2", [("nucleus", (10, 20, 110, 80))], None),
    ("other line ends", "0 0.1 0.125 0.16666666 0.15\r\n\r\n", [("cell", (10, 20, 110, 80))], None),
    ("byte order mark", "\ufeff0 0.1 0.125 0.16666666 0.15", [("cell", (10, 20, 110, 80))], None),
    ("nothing", "", [], None),
    ("px", "0 60 50 100 60", [], "60 is no share of an image"),
    ("class too high", "2 0.1 0.1 0.1 0.1", [], "class 2 is not among those of data.yaml"),
    ("class as a word", "cell 0.1 0.1 0.1 0.1", [], "'cell' is no whole number"),
    ("class as a fraction", "0.0 0.1 0.1 0.1 0.1", [], "no whole number"),
    ("three numbers", "0 0.1 0.1 0.1", [], "neither a box nor an outline"),
    ("odd outline", "0 .1 .1 .2 .1 .2 .2 .1", [], "neither a box nor an outline"),
    ("nan", "0 nan 0.1 0.1 0.1", [], "'nan' is no number"),
    ("no size", "0 0.1 0.1 0 0.1", [], "a box of 0 x 0.1"),
    ("no outline", "0 .1 .1 .1 .1 .1 .1", [], "an outline of 1 corners"),
    ("U+2028 in a row", "0 0.1\u20280.1 0.1 0.1", [("cell", (30, 20, 90, 60))], None),
]


@pytest.mark.parametrize(("name", "rows", "labels", "words"), YOLO, ids=[case[0] for case in YOLO])
def test_yolo_rows(tmp_path, name, rows, labels, words):
    yolo(tmp_path, "0 0.5 0.5 0.1 0.1", "b")
    path = yolo(tmp_path, rows)
    for asked in (path, path / "data.yaml", path / "labels"):
        data = build_dataset("d", [(asked, None)])
        found = [(label.name, tuple(round(v, 1) for v in label.box)) for label in data.labels if label.slide == "a"]
        assert found == labels
        assert [label.box for label in data.labels if label.slide == "b"] == [(270, 180, 330, 220)]
        assert len(data.areas) == (2 if words is None else 1)
        if words is not None:
            assert data.refused[0].startswith("a.txt line 1: ")
            assert words in data.refused[0]


def test_yolo_names(tmp_path):
    rows = "1 0.5 0.5 0.1 0.1"
    with pytest.raises(LabelFileError, match=r"no data\.yaml or classes\.txt names its classes"):
        read_labels(yolo(tmp_path / "none", rows, names=None))
    beside = yolo(tmp_path / "beside", rows, names=None)
    (beside / "labels" / "classes.txt").write_text("cell\nnucleus\n")
    assert [item.name for item in read_labels(beside / "labels" / "a.txt").found] == ["nucleus"]
    assert read_labels(yolo(tmp_path / "map", rows, names="names: {0: x, 1: y}\n")).found[0].name == "y"
    (beside / "data.yaml").write_text("names: [nucleus, cell]\n")
    with pytest.raises(LabelFileError, match="name other classes"):
        read_labels(beside)
    with pytest.raises(LabelFileError, match="2 names, and nc is 3"):
        read_labels(yolo(tmp_path / "nc", rows, names="names: [x, y]\nnc: 3\n"))
    points = yolo(tmp_path / "pose", "0 .5 .5 .1 .1 .5 .5 2 .6 .6 2", names="names: [x]\nkpt_shape: [2, 3]\n")
    assert read_labels(points).found[0].box == pytest.approx((0.45, 0.45, 0.55, 0.55))


def test_yolo_parts_with_images_of_one_name(tmp_path):
    for part in ("train", "val"):
        yolo(tmp_path / part, "0 0.5 0.5 0.1 0.1", names=None)
    (tmp_path / "data.yaml").write_text("names: [cell]\ntrain: train/images\nval: val/images\n")
    data = build_dataset("d", [(tmp_path, None)])
    assert len(data.slides) == len(data.labels) == 2
    assert {Path(entry.path).parent.parent.name for entry in data.slides} == {"train", "val"}


def test_names_that_differ_behind_their_first_dot_are_different_slides(tmp_path):
    for name in ("x", "y", "z"):
        yolo(tmp_path, "0 0.5 0.5 0.1 0.1", f"a_jpg.rf.{name}")
    data = build_dataset("d", [(tmp_path, None)])
    assert len({entry.path for entry in data.slides}) == 3
    assert len({label.slide for label in data.labels}) == 3
    path = coco(tmp_path / "c.json", {"bbox": [1, 2, 3, 4]}, images=[{"id": 1, "file_name": "a_jpg.png"}])
    with pytest.raises(DatasetError, match=r"may be a_jpg\.rf\.x\.png or a_jpg\.rf\.y\.png"):
        build_dataset("d", [(path, tmp_path / "images")])


# ---------------------------------------------------------------------- LabelMe


def labelme(path: Path, *shapes: Any, **changes: Any) -> Path:
    document = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 400,
        "imageWidth": 600,
    } | changes
    path.write_text(json.dumps(document))
    return path


def shape(kind: Any, points: Any, **changes: Any) -> dict[str, Any]:
    return {"label": "cell", "points": points, "group_id": None, "shape_type": kind, "flags": {}} | changes


CORNERS = [[10, 20], [110, 20], [110, 80], [10, 80]]
LABELME = [
    ("rectangle", [shape("rectangle", [[10, 20], [110, 80]])], [BOX], None),
    ("rectangle from below", [shape("rectangle", [[110, 80], [10, 20]])], [BOX], None),
    ("rectangle of four corners", [shape("rectangle", CORNERS)], [BOX], None),
    ("polygon", [shape("polygon", CORNERS)], [BOX], None),
    ("before 3.0", [{"label": "cell", "points": CORNERS, "line_color": None, "fill_color": None}], [BOX], None),
    ("turned", [shape("rotation", CORNERS), shape("oriented_rectangle", CORNERS)], [BOX, BOX], None),
    ("circle", [shape("circle", [[60, 50], [60, 80]])], [(30, 20, 90, 80)], None),
    ("point", [shape("point", [[5, 6]])], [(5, 6, 5, 6)], None),
    ("points", [shape("points", [[5, 6], [7, 8]])], [(5, 6, 5, 6), (7, 8, 7, 8)], None),
    ("mask", [shape("mask", [[10, 20], [109, 79]], mask="iVBOR")], [BOX], None),
    (
        "pieces of one",
        [shape("polygon", each, group_id=1) for each in (CORNERS, [[200, 5], [210, 5], [210, 15]])],
        [(10, 5, 210, 80)],
        None,
    ),
    ("lines", [shape("line", [[1, 2], [3, 4]]), shape("linestrip", CORNERS)], [], None),
    ("two corners", [shape(None, [[1, 2], [3, 4]])], [], "a polygon of 2 corners"),
    ("unknown", [shape("spline", CORNERS)], [], "shape_type 'spline' is not known"),
    ("no points", [shape("polygon", [])], [], r"its points are \[\]"),
    ("words", [shape("polygon", [["a", 1], [2, 3], [4, 5]])], [], "'a' is no number"),
    ("label", [shape("polygon", CORNERS, label={"a": 1})], [], "is no name"),
    ("half a letter", [shape("polygon", CORNERS, label="\ud800")], [], "is no text"),
    ("no shape", ["x"], [], "'x' is no shape"),
]


@pytest.mark.parametrize(("name", "shapes", "boxes", "words"), LABELME, ids=[case[0] for case in LABELME])
def test_labelme_shapes(tmp_path, name, shapes, boxes, words):
    picture(tmp_path / "a.png")
    path = labelme(tmp_path / "a.json", *shapes, shape("rectangle", [[300, 300], [310, 310]]))
    for asked in (path, tmp_path):
        data = build_dataset("d", [(asked, tmp_path)])
        assert [label.box for label in data.labels] == [*(pytest.approx(box) for box in boxes), (300, 300, 310, 310)]
        assert len(data.areas) == (words is None)
        assert len(data.refused) == (words is not None)
        if words is not None:
            assert data.refused[0].startswith("a.json shape 0: ")
            assert re.search(words, data.refused[0])


def test_labelme_images(tmp_path):
    picture(tmp_path / "pictures" / "a.png")
    path = labelme(tmp_path / "x.json", shape("polygon", CORNERS), imagePath="..\\pictures\\a.png")
    assert len(build_dataset("d", [(path, tmp_path / "pictures")]).labels) == 1
    wrong = labelme(tmp_path / "y.json", shape("polygon", CORNERS), imageHeight=4000)
    with pytest.raises(DatasetError, match="every box would be misplaced"):
        build_dataset("d", [(wrong, tmp_path / "pictures")])
    with pytest.raises(LabelFileError, match="its image 7 is no name"):
        read_labels(labelme(tmp_path / "z.json", imagePath=7))


# ---------------------------------------------------------------------- told by content


def test_json_files_are_told_by_what_they_hold(tmp_path):
    long = [{"id": i, "file_name": f"{i}.png", "note": "x" * 200} for i in range(12_000)]
    path = coco(tmp_path / "c.json", {"image_id": 7, "bbox": [1, 2, 3, 4]}, images=long)
    assert path.stat().st_size > 2_000_000
    assert read_labels(path).format == "coco"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "l.json").write_text(labelme(tmp_path / "m.json", shape("polygon", CORNERS)).read_text(), encoding)
        assert read_labels(tmp_path / "l.json").format == "labelme"
    for text in ("{}", "[1, 2]", '"images"', "null", '{"images": 1, "annotations": []}', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(LabelFileError):
            read_labels(tmp_path / "x.json")


def test_two_kinds_of_labels_in_one_folder_are_asked_about(tmp_path):
    folder = yolo(tmp_path, "0 0.5 0.5 0.1 0.1")
    labelme(folder / "a.json", shape("polygon", CORNERS))
    with pytest.raises(LabelFileError, match=r"labels of 2 formats \(labelme, yolo\); name one with --format"):
        read_labels(folder)
    assert read_labels(folder, "yolo").format == "yolo"
    assert set(READERS) >= {"coco", "voc", "yolo", "labelme", "geojson", "asap", "aperio", "label-image", "run"}


def test_nothing_left_says_why(tmp_path):
    picture(tmp_path / "a.png")
    path = coco(tmp_path / "c.json", {"bbox": None})
    with pytest.raises(DatasetError, match=r"1 were left out, such as c\.json annotation 1: its bbox is None"):
        build_dataset("d", [(path, tmp_path)], BuildOptions(exhaustive="none"))


def test_voc_object_with_two_boxes_names_itself(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>cell</name>{boxes}</object>" for boxes in (box + box, box))
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{objects}</annotation>")
    read = read_labels(tmp_path / "a.xml")
    assert len(read.found) == 1
    assert "object 0: two bndbox" in read.refused[0]


def test_a_look_at_the_root_of_xml_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.xml"
    path.write_text("<!-- made by hand --><Annotations><Annotation/></Annotations>")
    opened, real = [], Path.open

    def remembering(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(real(self, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(Path, "open", remembering)
    assert root_tag(path) == "Annotations"
    assert [stream.closed for stream in opened] == [True]
