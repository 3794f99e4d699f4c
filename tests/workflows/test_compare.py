"""Agreement with truth, on numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl.scoring.agreement import auroc
from workflows.merge.pairs import iou as iou_of_pairs
from workflows.review.compare import compare_boxes, match_boxes, read_truth_boxes, truth_features
from wsi.errors import AnnotationError
from wsi.regions.frames import SlideFrames


def test_iou_by_hand():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]], float)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [2, 2, 3, 3]], float)
    assert iou_of_pairs(a, b) == pytest.approx([1 / 3, 1, 0])


def test_greedy_matching_is_one_to_one():
    predicted = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [100, 100, 110, 110]], float)
    true = np.array([[1, 0, 11, 10], [200, 200, 210, 210]], float)
    assert match_boxes(predicted, true).tolist() == [[1, 0]]
    agreement = compare_boxes(predicted, ["n"] * 3, true, ["n"] * 2)["all"]
    assert (agreement.matched, agreement.predicted, agreement.true) == (1, 3, 2)
    assert agreement.f1 == pytest.approx(0.4)


def test_nothing_on_either_side():
    empty = np.empty((0, 4))
    assert math.isnan(compare_boxes(empty, [], empty, [])["all"].f1)
    assert compare_boxes(np.array([[0, 0, 1, 1.0]]), ["n"], empty, [])["all"].precision == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_matches_reach_the_threshold_and_truth_matches_itself(seed, n):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (n, 2))
    true = np.hstack([corner, corner + rng.uniform(5, 30, (n, 2))])
    assert len(match_boxes(true, true)) == n
    moved = true + rng.normal(0, 3, true.shape)
    moved = np.hstack([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:]) + 0.1])
    pairs = match_boxes(moved, true)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert (iou_of_pairs(moved[pairs[:, 0]], true[pairs[:, 1]]) >= 0.5).all()


def test_auroc_by_hand():
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == 0.75
    assert auroc(np.array([0.5, 0.5]), np.array([False, True])) == 0.5
    assert math.isnan(auroc(np.array([0.5]), np.array([True])))


def test_truth_is_read_from_detections(tmp_path):
    ring = [[0, 0], [10, 0], [10, 20], [0, 20], [0, 0]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": kind, "classification": {"name": name}},
        }
        for kind, name in (("annotation", "region"), ("detection", "tumor"))
    ]
    path = tmp_path / "truth.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    boxes, labels = read_truth_boxes(path)
    assert boxes.tolist() == [[0, 0, 10, 20]]
    assert labels == ["tumor"]
    assert read_truth_boxes(path, within=(50, 50, 60, 60))[1] == []


def test_cells_of_qupath_are_detections(tmp_path):
    ring = [[0, 0], [10, 0], [10, 20], [0, 20], [0, 0]]
    inner = [[4, 4], [8, 4], [8, 8], [4, 8], [4, 4]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": kind, "classification": {"names": ["CD3", "CD8"]}},
        }
        for kind in ("annotation", "cell")
    ]
    features[1]["nucleusGeometry"] = {"type": "Polygon", "coordinates": [inner]}
    points = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    features.append({"type": "Feature", "geometry": points, "properties": {"objectType": "detection"}})
    path = tmp_path / "cells.geojson"
    path.write_text(json.dumps(features))
    boxes, labels = read_truth_boxes(path)
    assert boxes.tolist() == [[0, 0, 10, 20], [1, 2, 1, 2], [3, 4, 3, 4]]
    assert labels == ["CD3: CD8", "", ""]


@pytest.mark.parametrize("stated", [{"names": "CD3"}, {"names": [["CD3"]]}, 7])
def test_a_class_that_is_no_name_is_refused_by_every_reader_of_truth(stated, tmp_path):
    ring = [[0, 0], [10, 0], [10, 20], [0, 20], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path = tmp_path / "truth.geojson"
    path.write_text(json.dumps([feature | {"properties": {"objectType": "annotation", "classification": stated}}]))
    for read in (read_truth_boxes, lambda path: truth_features(path, SlideFrames())):
        with pytest.raises(AnnotationError, match="feature 0"):
            read(path)


FEATURE = {"type": "Feature", "properties": {"objectType": "detection"}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not GeoJSON"),
        (b"\x1f\x8b no gzip", "cannot be read"),
        (b"3", "3 is no feature"),
        (b"[3]", "feature 0: 3 is no feature"),
        (json.dumps([FEATURE | {"geometry": None}]).encode(), "feature 0: no geometry"),
        (json.dumps([FEATURE | {"geometry": {"type": "Polygon"}}]).encode(), "in place of coordinates"),
        (
            json.dumps([FEATURE | {"geometry": {"type": "Polygon", "coordinates": []}}]).encode(),
            "in place of coordinates",
        ),
        (json.dumps([FEATURE | {"geometry": {"type": "Point", "coordinates": ["a", 1]}}]).encode(), "is no number"),
    ],
)
def test_truth_that_cannot_be_read_is_named(content, said, tmp_path):
    path = tmp_path / "truth.geojson"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=said):
        read_truth_boxes(path)
    with pytest.raises(AnnotationError, match="There is no GeoJSON file"):
        read_truth_boxes(tmp_path / "none.geojson")
