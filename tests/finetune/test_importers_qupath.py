"""Whatever QuPath writes becomes labels as QuPath shows it; what is no object is left out and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.dataset.build import BuildOptions, build_dataset
from finetune.dataset.importers import read_labels
from finetune.errors import LabelFileError
from wsi.regions.qupath import class_name, class_of, read_objects

SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]
OTHER = [[70, 10], [90, 10], [90, 30], [70, 30], [70, 10]]
BOX = (10, 20, 50, 60)


def feature(geometry: Any, kind: str = "annotation", name: Any = "Tumor", **more: Any) -> dict[str, Any]:
    properties = {"objectType": kind, "classification": {"name": name, "color": [1, 2, 3]}, **more}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings or [SQUARE]), **more}


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8))
    return path


def write(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


CLASSES = [
    ({"classification": {"name": "Tumor"}}, "Tumor"),
    ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
    ({"classification": {"name": "Positive", "parentClass": {"name": "Tumor"}, "colorRGB": -1}}, "Tumor: Positive"),
    ({"classification": {"name": "CD3:CD8"}}, "CD3: CD8"),
    ({"classification": {"names": ["CD3", "CD8"]}}, "CD3: CD8"),
    ({"classification": "CD3 :CD8"}, "CD3: CD8"),
    ({"classification": " Tumor "}, "Tumor"),
    ({"classification": '{ "name": "Tumor", "color": [ 1, 2, 3 ] }'}, "Tumor"),  # as GeoPandas writes it
    ({"classification": "{'names': ['CD3', 'CD8'], 'color': None}"}, "CD3: CD8"),
    ({"classification": {"name": None}}, ""),
    ({"classification": None, "label": {"value": "nucleus"}}, "nucleus"),
    ({"group": "nucleus"}, "nucleus"),
    ({}, ""),
]


@pytest.mark.parametrize(("properties", "name"), CLASSES)
def test_classes_are_what_qupath_shows(properties, name):
    assert class_of(properties) == name
    assert class_name(name) == name


@pytest.mark.parametrize(
    "stated",
    [
        "{'name': np.str_('Tumor')}",
        7,
        ["Tumor"],
        {"name": 7},
        {"names": "Tumor"},
        {"names": [["a"]]},
        "x" * 400,
        "\ud800",
    ],
)
def test_classes_that_are_none(stated):
    with pytest.raises(ValueError, match="class"):
        class_of({"classification": stated})


# Geometry, boxes of what it is, whether they are points, words where it is left out.
GEOMETRIES = [
    ("polygon", polygon(), [BOX], False, None),
    ("open ring", polygon(SQUARE[:-1]), [BOX], False, None),
    ("ellipse", polygon(isEllipse=True), [BOX], False, None),
    ("third coordinate", polygon([[*p, 0] for p in SQUARE]), [BOX], False, None),
    ("pieces", {"type": "MultiPolygon", "coordinates": [[SQUARE], [OTHER]]}, [(10, 10, 90, 60)], False, None),
    ("point", {"type": "Point", "coordinates": [5, 6]}, [(5, 6, 5, 6)], True, None),
    ("points", {"type": "MultiPoint", "coordinates": [[5, 6], [7, 8]]}, [(5, 6, 5, 6), (7, 8, 7, 8)], True, None),
    (
        "collection",
        {"type": "GeometryCollection", "geometries": [polygon(), polygon(OTHER)]},
        [(10, 10, 90, 60)],
        False,
        None,
    ),
    (
        "collections",
        {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "GeometryCollection", "geometries": [{"type": "MultiPoint", "coordinates": [[5, 6], [7, 8]]}]}
            ],
        },
        [(5, 6, 5, 6), (7, 8, 7, 8)],
        True,
        None,
    ),
    (
        "area and line",
        {
            "type": "GeometryCollection",
            "geometries": [polygon(), {"type": "LineString", "coordinates": [[0, 0], [199, 99]]}],
        },
        [BOX],
        False,
        None,
    ),
    ("closed line", {"type": "LineString", "coordinates": SQUARE}, [BOX], False, None),
    ("ruler", {"type": "LineString", "coordinates": [[1, 2], [30, 40]]}, [], False, "1 lines left out"),
    ("lines", {"type": "MultiLineString", "coordinates": [[[1, 2], [30, 40]]]}, [], False, "1 lines left out"),
    ("another plane", polygon(plane={"c": -1, "z": 3, "t": 1}), [], False, "drawn on plane z=3, t=1"),
    ("this plane", polygon(plane={"c": 2, "z": 0, "t": 0}), [BOX], False, None),
    ("no plane", polygon(plane=7), [], False, "its plane is 7"),
    ("no corners", polygon([]), [], False, "in place of coordinates"),
    ("two corners", polygon([[1, 2], [3, 4], [1, 2]]), [], False, "an outline of 2 corners"),
    ("one place", polygon([[1, 2]] * 4), [], False, "an outline without area"),
    ("words", polygon([["a", 1], [2, 3], [4, 5]]), [], False, "'a' is no number"),
    ("true", polygon([[True, 1], [2, 3], [4, 5]]), [], False, "True is no number"),
    ("endless", {"type": "Point", "coordinates": [float("inf"), 1]}, [], False, "lies in no image"),
    ("nan", {"type": "Point", "coordinates": [float("nan"), 1]}, [], False, "lies in no image"),
    ("400 digits", {"type": "Point", "coordinates": [10**400, 1]}, [], False, "more than 30 digits"),
    ("circle", {"type": "Circle", "coordinates": [1, 2]}, [], False, "geometry of type 'Circle'"),
    ("none", None, [], False, "no geometry"),
]


@pytest.mark.parametrize(("name", "geometry", "boxes", "points", "words"), GEOMETRIES, ids=[g[0] for g in GEOMETRIES])
def test_geometries(slide, tmp_path, name, geometry, boxes, points, words):
    good = {"type": "Point", "coordinates": [199, 99]}
    path = write(tmp_path / "q.geojson", feature(geometry), feature(good))
    data = build_dataset("d", [(path, slide)])
    assert [label.box for label in data.labels] == [*boxes, (199, 99, 199, 99)]
    assert all(label.is_point == points for label in data.labels[:-1])
    said = [text for text in (*data.refused, *data.notes) if "exhaustively" not in text]
    if words is None:
        assert said == []
    else:
        assert words in said[0]
        assert said[0].startswith("q.geojson")


def test_children_and_cores(slide, tmp_path):
    deep: dict[str, Any] = feature(polygon(), name="deepest")
    for number in range(2000):
        deep = feature(polygon(OTHER), kind="tile" if number else "tmaCore", childObjects=[deep])
    rows = [
        feature(polygon(OTHER), kind="tmaCore", childObjects=[feature(polygon()), {"type": "Feature", "geometry": 3}]),
        feature(polygon(OTHER), name="parent", children=[feature(polygon(), name="child")]),
        {
            "type": "Feature",
            "id": "PathCellObject",
            "geometry": polygon(),
            "nucleusGeometry": polygon(OTHER),
            "properties": {"classification": {"name": "cell"}},
        },
        {"type": "Feature", "id": "PathTileObject", "geometry": polygon(), "properties": {}},
    ]
    data = build_dataset("d", [(write(tmp_path / "q.geojson", *rows), slide)])
    assert [(label.name, label.box) for label in data.labels] == [
        ("Tumor", BOX),
        ("parent", (70, 10, 90, 30)),
        ("child", BOX),
        ("cell", BOX),
    ]
    assert data.refused == ("q.geojson feature 0 child 1: no geometry",)
    read = read_objects(deep)
    assert [item.label for item in read.objects] == ["deepest"]
    assert read.containers == 2000


def test_the_class_is_spelled_as_the_user_does(slide, tmp_path):
    rows = [
        feature(polygon(), name="CD3:CD8"),
        feature(polygon(), name=None) | {"properties": {"classification": {"names": ["CD3", "CD8"]}}},
        feature(polygon(), name="Ki67:Positive"),
        feature(polygon(OTHER), name="a:b"),
        feature(polygon([[0, 0], [199, 0], [199, 99], [0, 99]]), name="ROI:all"),
    ]
    options = BuildOptions(
        names=("CD3:CD8", "pos"),
        rename={"Ki67:Positive": "pos"},
        ignore=("a:b",),
        exhaustive="areas",
        area_names=("ROI:all",),
    )
    data = build_dataset("d", [(write(tmp_path / "q.geojson", *rows), slide)], options)
    assert [label.name for label in data.labels] == ["CD3:CD8", "CD3:CD8", "pos"]
    assert len(data.areas) == 1


def test_areas_in_pieces_claim_their_pieces_alone(slide, tmp_path):
    rows = [
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE], [OTHER]]}, name="ROI"),
        feature(polygon([[0, 0], [199, 0], [199, 99], [0, 99]], SQUARE), name="ROI"),
        feature({"type": "Point", "coordinates": [20, 30]}),
    ]
    options = BuildOptions(exhaustive="areas", area_names=("ROI",))
    data = build_dataset("d", [(write(tmp_path / "q.geojson", *rows), slide)], options)
    assert [area.ring for area in data.areas] == [tuple(map(tuple, SQUARE[:-1])), tuple(map(tuple, OTHER[:-1]))]
    assert "an area with a hole" in data.refused[0]


@pytest.mark.parametrize("document", ["7", '"Feature"', '{"type": "Topology"}', "[1, 2]"])
def test_what_is_no_geojson_is_an_error(tmp_path, document):
    (tmp_path / "q.geojson").write_text(document)
    with pytest.raises(LabelFileError, match="is not GeoJSON"):
        read_labels(tmp_path / "q.geojson")


@pytest.mark.parametrize("where", ["childObjects", "children"])
def test_children_in_a_collection_are_read_and_others_named(tmp_path, where):
    children = {"type": "FeatureCollection", "features": [feature(polygon(OTHER), name="Stroma")]}
    read = read_labels(write(tmp_path / "a.geojson", feature(polygon()) | {where: children}))
    assert [item.name for item in read.found] == ["Tumor", "Stroma"]
    read = read_labels(write(tmp_path / "a.geojson", feature(polygon()) | {where: "lost"}))
    assert len(read.found) == 1
    assert "child: 'lost' is no feature" in read.refused[0]


def test_cores_left_out_are_said(tmp_path):
    read = read_labels(write(tmp_path / "a.geojson", feature(polygon(), "tmaCore"), feature(polygon(OTHER))))
    assert len(read.found) == 1
    assert "1 tiles, cores or roots left out" in read.notes[0]
