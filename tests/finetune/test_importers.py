"""Annotation files of every tool: known numbers in, level-0 boxes out; what cannot be a label is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.dataset.build import BuildOptions, build_dataset, read_patients, split_dataset, with_patients
from finetune.dataset.cutting import Cutter, TileSpec
from finetune.dataset.importers import read_labels
from finetune.dataset.samples import Dataset
from finetune.errors import DatasetError, LabelFileError, LeakError, RecipeError


def picture(path: Path, width: int = 200, height: int = 100, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    return path


def voc(path: Path, boxes, name="a.png", size=(200, 100)) -> Path:
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
        f"<ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{items}</annotation>"
    )
    return path


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


SQUARE = [[[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]]


def test_voc_counts_from_one(tmp_path):
    picture(tmp_path / "a.png")
    voc(tmp_path / "a.xml", [("cell", (11, 21, 50, 60)), ("cell", (1, 1, 200, 100))])
    data = build_dataset("d", [(tmp_path / "a.xml", tmp_path)])
    assert [label.box for label in data.labels] == [(10, 20, 50, 60), (0, 0, 200, 100)]


def test_coco(tmp_path):
    picture(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [10, 20, 40, 40],
                "segmentation": [[10, 20, 50, 20, 50, 60]],
            },
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 90, 90], "iscrowd": 1},
        ],
        "categories": [{"id": 2, "name": "cell"}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    data = build_dataset("d", [(tmp_path / "c.json", tmp_path)])
    assert [(label.name, label.box, len(label.ring)) for label in data.labels] == [("cell", (10, 20, 50, 60), 3)]
    assert "crowd" in data.notes[0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"objectType": "annotation", "classification": {"name": "Tumor", "color": [1, 2, 3]}}, "Tumor"),
        ({"objectType": "detection", "classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"object_type": "cell", "classification": {"name": "Tumor", "colorRGB": -1}}, "Tumor"),
        ({"classification": "Tumor"}, "Tumor"),
    ],
)
def test_qupath_geojson_of_every_version(tmp_path, properties, name, packed):
    slide = picture(tmp_path / "a.png")
    rows = [
        feature({"type": "Polygon", "coordinates": SQUARE}, **properties),
        feature({"type": "MultiPolygon", "coordinates": [SQUARE]}, **properties),
        feature(
            {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": SQUARE}]}, **properties
        ),
        feature({"type": "MultiPoint", "coordinates": [[5, 6], [7, 8]]}, **properties),
        feature({"type": "Polygon", "coordinates": SQUARE}, objectType="tile"),
    ]
    path = tmp_path / ("q.geojson.gz" if packed else "q.geojson")
    text = json.dumps(rows if packed else {"type": "FeatureCollection", "features": rows})
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    data = build_dataset("d", [(path, slide)])
    assert {label.name for label in data.labels} == {name}
    assert [label.box for label in data.labels] == [(10, 20, 50, 60)] * 3 + [(5, 6, 5, 6), (7, 8, 7, 8)]
    assert not data.areas  # nobody said that everything is labelled
    assert "exhaustively" in data.notes[-1]


def test_asap_and_aperio(tmp_path):
    slide = picture(tmp_path / "a.png")
    points = ((10, 20), (50, 20), (50, 60), (10, 60))
    asap = tmp_path / "asap.xml"
    # Coordinates in the file stand in any order.
    asap.write_text(
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        '<Annotation Name="n" Type="Polygon" PartOfGroup="tumor"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in reversed(list(enumerate(points))))
        + "</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    aperio = tmp_path / "aperio.xml"
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    aperio.write_text(
        '<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="" LineColor="65280"><Regions>'
        f'<Region Id="1" Type="0" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'
        f'<Region Id="2" Type="0" NegativeROA="1"><Vertices>{vertices}</Vertices></Region>'
        "</Regions></Annotation></Annotations>"
    )
    for path, name in ((asap, "tumor"), (aperio, "#00ff00")):
        data = build_dataset("d", [(path, slide)])
        assert [(label.name, label.box, label.ring[0]) for label in data.labels] == [(name, (10, 20, 50, 60), (10, 20))]
    assert "holes" in build_dataset("d", [(aperio, slide)]).notes[0]


def test_label_maps_and_ome_zarr(tmp_path):
    import zarr

    labels = np.zeros((100, 200), np.uint16)
    labels[20:60, 10:50] = 7
    labels[0:5, 190:200] = 300
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "maps").mkdir()
    cv2.imwrite(str(tmp_path / "maps" / "a.png"), labels)
    data = build_dataset("d", [(tmp_path / "maps", tmp_path / "images")], BuildOptions(rename={"object": "nucleus"}))
    assert {label.box for label in data.labels} == {(10, 20, 50, 60), (190, 0, 200, 5)}
    assert data.names == ("nucleus",)
    assert len(data.areas) == 1

    root = tmp_path / "s.zarr" / "labels"
    (root / "cells").mkdir(parents=True)
    (root / ".zattrs").write_text(json.dumps({"labels": ["cells"]}))
    attributes = {
        "multiscales": [{"datasets": [{"path": "0"}]}],
        "image-label": {"properties": [{"label-value": 7, "class": "tumor"}]},
    }
    (root / "cells" / ".zattrs").write_text(json.dumps(attributes))
    array = zarr.create_array(str(root / "cells" / "0"), shape=labels.shape, dtype=labels.dtype, zarr_format=2)
    array[:] = labels
    (tmp_path / "s.zarr" / ".zattrs").write_text("{}")
    found = read_labels(tmp_path / "s.zarr").found
    assert {(item.name, item.box) for item in found} == {("tumor", (10, 20, 50, 60)), ("cells", (190, 0, 200, 5))}


def test_real_annotations(real_data):
    qupath = read_labels(real_data / "annotations" / "qupath05.geojson")
    asap = read_labels(real_data / "annotations" / "asap_example.xml")
    assert qupath.format == "geojson"
    assert all(item.box[2] > item.box[0] for item in qupath.found)
    assert [(item.name, item.box) for item in asap.found] == [("healthy glands", (11778, 12804, 11862, 12874))]


def test_blood_cells_of_the_real_set(real_data):
    data = build_dataset("b", [(real_data / "cells/bccd/annotations", real_data / "cells/bccd/images")])
    assert data.counts() == {"Platelets": 292, "RBC": 3348, "WBC": 301}
    assert len(data.refused) == 2  # its two boxes without area
    assert all("without area" in text for text in data.refused)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((50, 50, 50, 50), "without area"),
        ((60, 20, 50, 60), "without area"),
        ((300, 20, 340, 60), "outside"),
        ((-90, 1, -5, 9), "outside"),
    ],
)
def test_boxes_that_cannot_be(tmp_path, box, reason):
    picture(tmp_path / "a.png")
    voc(tmp_path / "a.xml", [("cell", box), ("cell", (11, 21, 50, 60))])
    data = build_dataset("d", [(tmp_path / "a.xml", tmp_path)])
    assert len(data.labels) == 1
    assert reason in data.refused[0]
    assert "object 0" in data.refused[0]


def test_a_box_over_the_border_is_cut_and_said(tmp_path):
    picture(tmp_path / "a.png")
    voc(tmp_path / "a.xml", [("cell", (181, 21, 230, 60))])
    data = build_dataset("d", [(tmp_path / "a.xml", tmp_path)])
    assert data.labels[0].box == (180, 20, 200, 60)
    assert "cut at the border" in data.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(names=("nucleus",)), "class 'cell' is not among nucleus"),
        (BuildOptions(exhaustive="mostly"), "is none of auto"),
        (BuildOptions(kind="xls"), "format 'xls' is unknown"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    picture(tmp_path / "a.png")
    voc(tmp_path / "a.xml", [("cell", (11, 21, 50, 60))])
    with pytest.raises(DatasetError, match=message):
        build_dataset("d", [(tmp_path / "a.xml", tmp_path)], options)


def test_pictures_that_are_missing_or_of_another_size(tmp_path):
    voc(tmp_path / "a.xml", [("cell", (11, 21, 50, 60))])
    with pytest.raises(DatasetError, match=r"its picture 'a\.png' is not in"):
        build_dataset("d", [(tmp_path / "a.xml", None)])
    picture(tmp_path / "a.png", width=100)
    with pytest.raises(DatasetError, match="every box would be misplaced"):
        build_dataset("d", [(tmp_path / "a.xml", None)])


@pytest.mark.parametrize("text", ["{", "<annotation>", "[]x"])
def test_broken_files(tmp_path, text):
    for name in ("a.geojson", "a.xml"):
        (tmp_path / name).write_text(text)
        with pytest.raises(LabelFileError):
            read_labels(tmp_path / name)
    with pytest.raises(LabelFileError, match="does not exist"):
        read_labels(tmp_path / "none.xml")


def many(tmp_path, number=6, same=()) -> Dataset:
    for n in range(number):
        picture(tmp_path / f"s{n}.png", seed=0 if n in same else n + 1)
        voc(tmp_path / "xml" / f"s{n}.xml", [("cell", (11, 21, 50, 60))], name=f"s{n}.png")
    return build_dataset("d", [(tmp_path / "xml", tmp_path)])


def test_splits_keep_patients_whole(tmp_path):
    data = with_patients(many(tmp_path), {f"s{n}": f"p{n // 2}" for n in range(6)})
    split = split_dataset(data, validation=0.3, test=0.3, seed=3)
    by_patient = {}
    for entry in split.slides:
        by_patient.setdefault(entry.patient, set()).add(entry.split)
    assert all(len(found) == 1 for found in by_patient.values())
    assert {entry.split for entry in split.slides} == {"train", "validation", "test"}
    assert split_dataset(data, validation=0.3, test=0.3, seed=3) == split
    with pytest.raises(LeakError, match="of patient p0"):
        split_dataset(data, lists={"train": ["s0"], "validation": ["s1"]})
    with pytest.raises(DatasetError, match="too few"):
        split_dataset(data, validation=0.5, test=0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('slide,patient\na,"p1\nb,p2\nc,p3\n', "look for an open quote"),
        ("slide,patient\na,p1\nb\n", "row 2 has not the cells"),
        ("slide;patient\na;p1\n", "needs the columns"),
    ],
)
def test_tables_of_patients_that_cannot_be(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_patients(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text('slide,patient\na\u2028b.svs,"p,1"\n', encoding="utf-8")
    assert read_patients(tmp_path / "p.csv") == {"a\u2028b": "p,1"}


def test_the_same_pixels_on_both_sides_are_a_leak(tmp_path):
    data = many(tmp_path, same=(0, 1))
    with pytest.raises(LeakError, match="with the same pixels"):
        split_dataset(data, lists={"train": ["s0"], "validation": ["s1"]})


def test_a_dataset_comes_back_and_notices_changes(tmp_path):
    data = split_dataset(many(tmp_path), validation=0.3)
    saved = data.save(tmp_path / "out")
    assert Dataset.open(tmp_path / "out") == saved
    with pytest.raises(DatasetError, match="holds a dataset already"):
        data.save(tmp_path / "out")
    entry = saved.slides[0]
    picture(Path(entry.path), seed=99)
    with pytest.raises(DatasetError, match="is not what slide s0 was labelled on"):
        saved.open_slide(entry)
    Path(entry.path).unlink()
    with pytest.raises(DatasetError, match="not there any more"):
        saved.open_slide(entry)
    lines = (tmp_path / "out" / "labels.jsonl").read_text().replace("10", "11", 1)
    (tmp_path / "out" / "labels.jsonl").write_text(lines)
    with pytest.raises(DatasetError, match="changed by hand"):
        Dataset.open(tmp_path / "out")


def test_tiles_are_cut_only_where_all_is_labelled(tmp_path):
    slide = picture(tmp_path / "a.png", 400, 400)
    roi = [[[0, 0], [200, 0], [200, 400], [0, 400], [0, 0]]]
    cell = {"type": "Polygon", "coordinates": SQUARE}
    outside = {"type": "Polygon", "coordinates": [[[300, 300], [320, 300], [320, 320], [300, 320], [300, 300]]]}
    rows = [
        feature(cell, classification={"name": "cell"}),
        feature(outside, classification={"name": "cell"}),
        feature({"type": "Polygon", "coordinates": roi}, classification={"name": "ROI"}),
    ]
    (tmp_path / "q.geojson").write_text(json.dumps({"features": rows}))
    without = split_dataset(
        build_dataset("d", [(tmp_path / "q.geojson", slide)], BuildOptions(ignore=("ROI",))), lists={"train": ["a"]}
    )
    spec = TileSpec(size=100, overlap=0)
    with pytest.raises(RecipeError, match="would teach that the unlabelled objects are not there"):
        Cutter(without, spec, ("cell",)).usable("train")
    told = split_dataset(
        build_dataset("d", [(tmp_path / "q.geojson", slide)], BuildOptions(exhaustive="areas", area_names=("ROI",))),
        lists={"train": ["a"]},
    )
    assert told.names == ("cell",)
    cuts = Cutter(told, spec, ("cell",)).grid(told.slides[0])
    assert {(cut.tile.x0, cut.tile.y0) for cut in cuts} == {(x, y) for x in (0, 100) for y in (0, 100, 200, 300)}
    assert sum(len(cut.objects) for cut in cuts) == 1  # the other cell lies where labels may be missing
