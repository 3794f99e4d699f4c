"""Level-0 px and QuPath's px: exact both ways, recorded, asked for where it matters, never assumed."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from array_slide import ArraySlide, blank
from bounded_slide import BOUNDS, CANVAS, OFFSET, SIZE, scanned, write_scn, write_sparse
from hypothesis import given
from hypothesis import strategies as st

from wsi import FrameError, FrameNeededError, PixelFrame, SlideFrames, TissueMask, open_slide
from wsi.errors import MaskError
from wsi.regions.frames import HEAD, FrameRecord
from wsi.regions.geojson import load_geojson

FRAMES = SlideFrames(BOUNDS)
WHOLE = SlideFrames()
REGION = [[40.0, 30.0], [140.0, 30.0], [140.0, 90.5], [40.0, 90.5], [40.0, 30.0]]
POLYGON = {"type": "Polygon", "coordinates": [REGION]}
WHERE = Path("regions.geojson")


def collection(geometry: Any = POLYGON, head: Any = None) -> dict[str, Any]:
    feature = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    return {"type": "FeatureCollection"} | ({} if head is None else {HEAD: head}) | {"features": [feature]}


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


# ---------------------------------------------------------------------- coordinates

OFFSETS = st.integers(-(10**6), 10**6)
BOUND = st.tuples(OFFSETS, OFFSETS, st.integers(1, 10**6), st.integers(1, 10**6))
COORDINATE = st.one_of(
    st.integers(-(10**6), 10**6),
    st.integers(-(10**12), 10**12).map(lambda n: n / 10**6),  # what a file states, up to a millionth of a px
)


@given(BOUND, st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE), min_size=1))
def test_there_and_back_is_exact(bounds: Any, boxes: Any) -> None:
    frames = SlideFrames(bounds)
    places = np.array(boxes, np.float64)
    shown = frames.from_level0(places, "qupath")
    assert np.array_equal(frames.to_level0(shown, "qupath"), places)
    assert np.array_equal(frames.from_level0(frames.to_level0(places, "qupath"), "qupath"), places)
    assert np.allclose(places - shown, np.tile(frames.offset, 2), atol=2e-6)
    whole = np.array(boxes).astype(np.int64)
    assert np.array_equal(frames.to_level0(whole, "qupath"), whole + np.tile(frames.offset, 2))


GEOMETRY = st.recursive(
    st.one_of(
        st.tuples(COORDINATE, COORDINATE).map(lambda p: {"type": "Point", "coordinates": list(p)}),
        st.lists(st.lists(COORDINATE, min_size=2, max_size=3), max_size=5).map(
            lambda ring: {"type": "Polygon", "coordinates": [ring], "plane": {"c": -1, "z": 2, "t": 1}}
        ),
        st.lists(st.lists(st.lists(COORDINATE, min_size=2, max_size=2), max_size=4), max_size=3).map(
            lambda parts: {"type": "MultiPolygon", "coordinates": [parts]}
        ),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: {"type": "GeometryCollection", "geometries": parts}),
    max_leaves=6,
)


@given(BOUND, GEOMETRY, GEOMETRY)
def test_documents_there_and_back_are_exact(bounds: Any, geometry: Any, nucleus: Any) -> None:
    frames = SlideFrames(bounds)
    document = collection(geometry, {"run": "x"})
    document["features"][0] |= {"nucleusGeometry": nucleus}
    document["features"][0]["properties"] |= {"measurements": {"score": 0.5}, "childObjects": [geometry]}
    before = copy.deepcopy(document)
    shown = frames.document_from_level0(document, "qupath")
    assert frames.document_to_level0(shown, "qupath") == before
    assert document == before
    assert frames.document_from_level0(document, "level0") == before


def test_every_geometry_of_a_feature_moves_and_nothing_else() -> None:
    point = {"type": "Point", "coordinates": [300, 200.25, 7]}
    feature = {
        "type": "Feature",
        "bbox": [1, 2, 3, 4],
        "geometry": {"type": "GeometryCollection", "geometries": [point]},
        "nucleusGeometry": point,
        "properties": {"measurements": {"Centroid X px": 300.0}, "color": [1, 2, 3], "childObjects": [point]},
    }
    moved = {"type": "Point", "coordinates": [44, 72.25, 7]}
    assert FRAMES.document_from_level0(feature, "qupath") == {
        "type": "Feature",
        "geometry": {"type": "GeometryCollection", "geometries": [moved]},
        "nucleusGeometry": moved,
        "properties": {"measurements": {"Centroid X px": 300.0}, "color": [1, 2, 3], "childObjects": [moved]},
    }


def test_bounds_of_the_whole_slide_are_none() -> None:
    assert SlideFrames.cropped((0, 0, 10, 20), (10, 20)) == SlideFrames.cropped(None, (10, 20)) == WHOLE
    cut = SlideFrames.cropped((0, 0, 9, 20), (10, 20))  # QuPath shows less, and counts from the same corner
    assert (cut.bounds, cut.offset, cut.differ) == ((0, 0, 9, 20), (0, 0), False)


# ---------------------------------------------------------------------- which frame

QUPATH, LEVEL0 = PixelFrame.QUPATH, PixelFrame.LEVEL0
SETTLED = [
    # slide, record, given -> frame
    (WHOLE, None, None, LEVEL0),
    (WHOLE, None, "qupath", QUPATH),
    (FRAMES, None, "qupath", QUPATH),
    (FRAMES, None, "level0", LEVEL0),
    (FRAMES, FrameRecord(QUPATH, BOUNDS), None, QUPATH),
    (FRAMES, FrameRecord(LEVEL0, BOUNDS), None, LEVEL0),
    (FRAMES, FrameRecord(QUPATH, BOUNDS), "qupath", QUPATH),
    (FRAMES, FrameRecord(QUPATH, None, bounds_stated=False), None, QUPATH),
    (WHOLE, FrameRecord(QUPATH), None, QUPATH),
]


@pytest.mark.parametrize(("frames", "record", "given", "expected"), SETTLED)
def test_the_frame_is_the_recorded_one_else_the_given_one(
    frames: SlideFrames, record: FrameRecord | None, given: str | None, expected: PixelFrame
) -> None:
    assert frames.settle(record, given, WHERE) is expected


REFUSED = [
    (FRAMES, None, None, FrameNeededError, "--frame qupath"),
    (FRAMES, FrameRecord(QUPATH, BOUNDS), "level0", FrameError, "records .*'qupath'.* --frame says 'level0'"),
    (FRAMES, FrameRecord(LEVEL0, BOUNDS), "qupath", FrameError, "records .*'level0'"),
    (FRAMES, FrameRecord(QUPATH, (256, 129, 512, 384)), None, FrameError, "another slide or scan"),
    (FRAMES, FrameRecord(QUPATH), "qupath", FrameError, "written for a slide of which QuPath shows all"),
    (WHOLE, FrameRecord(LEVEL0, BOUNDS), None, FrameError, "512x384 px at level-0 px"),
]


@pytest.mark.parametrize(("frames", "record", "given", "kind", "words"), REFUSED)
def test_what_is_missing_or_contradicts_is_an_error(
    frames: SlideFrames, record: FrameRecord | None, given: str | None, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        frames.settle(record, given, WHERE)
    assert str(WHERE) in str(raised.value)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (None, None),
        ({}, None),
        ("text", None),
        ({"run": "r", "slide": "s"}, None),
        ({"frame": "qupath"}, FrameRecord(QUPATH, None, bounds_stated=False)),
        ({"frame": "level0", "bounds": None}, FrameRecord(LEVEL0)),
        ({"frame": "qupath", "bounds": list(BOUNDS)}, FrameRecord(QUPATH, BOUNDS)),
    ],
)
def test_records_are_read(head: Any, expected: FrameRecord | None) -> None:
    assert FrameRecord.of(collection(head=head), WHERE) == expected
    assert FrameRecord.of(collection()["features"], WHERE) is None


@pytest.mark.parametrize(
    "head",
    [
        {"frame": "canvas"},
        {"frame": 3},
        {"frame": ["qupath"]},
        {"frame": "qupath", "bounds": [1, 2, 3]},
        {"frame": "qupath", "bounds": [1, 2, 3, 4.5]},
        {"frame": "qupath", "bounds": "1234"},
        {"frame": "qupath", "bounds": [1, 2, 3, float("nan")]},
        {"frame": "qupath", "bounds": [1, 2, 3, float("inf")]},
        {"frame": "qupath", "bounds": [1, 2, None, 4]},
        {"frame": "qupath", "bounds": 7},
    ],
)
def test_a_record_that_is_not_known_is_an_error(head: Any) -> None:
    with pytest.raises(FrameError, match=r"regions\.geojson records its frame in a way that is not known"):
        FrameRecord.of(collection(head=head), WHERE)


@pytest.mark.parametrize("frame", [QUPATH, LEVEL0])
def test_what_is_recorded_is_read_back(frame: PixelFrame, tmp_path: Path) -> None:
    document = FRAMES.document_from_level0(collection(), frame) | {HEAD: FRAMES.record(frame)}
    path = written(tmp_path / "r.geojson", document)
    assert load_geojson(path, FRAMES)["features"] == collection()["features"]


@pytest.mark.parametrize("depth", [900, 2_000, 20_000])
def test_deep_nesting_is_no_other_than_a_named_error(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.geojson"
    path.write_text('{"type":"Polygon","coordinates":' + "[" * depth + "]" * depth + "}")
    with contextlib.suppress(MaskError):
        load_geojson(path, FRAMES, "qupath", error=MaskError)


# ---------------------------------------------------------------------- a slide with bounds


def test_a_slide_with_bounds_states_what_qupath_shows(tmp_path: Path) -> None:
    with open_slide(write_scn(tmp_path / "a.scn")) as slide:
        assert (slide.width, slide.height) == CANVAS
        assert slide.qupath_bounds == BOUNDS
        assert SlideFrames.of(slide) == FRAMES
        x0, y0, width, height = BOUNDS
        assert np.array_equal(slide.read(x0, y0, width, height), scanned())
    with open_slide(write_scn(tmp_path / "b.scn", offset=(0, 0))) as slide:
        assert not SlideFrames.of(slide).differ
    assert SlideFrames.of(ArraySlide(blank(10, 10))) == WHOLE


_OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="512" SizeY="384" SizeC="3" SizeZ="1" SizeT="1">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)
SPARSE = {
    "all there": (lambda x, y: True, "", None),
    "hole inside": (lambda x, y: (x, y) != (1, 1), "", None),
    "first column missing": (lambda x, y: x > 0, "", (128, 0, 384, 384)),
    "last row missing": (lambda x, y: y < 2, "", (0, 0, 512, 256)),
    "border missing": (lambda x, y: x in (1, 2) and y == 1, "", (128, 128, 256, 128)),
    "OME-TIFF, which QuPath takes from Bio-Formats": (lambda x, y: x > 0, _OME, None),
}


@pytest.mark.parametrize("reader", [None, "tiff"])
@pytest.mark.parametrize("case", SPARSE)
def test_tiffs_without_their_outer_tiles_have_the_bounds_that_openslide_states(
    case: str, reader: str | None, tmp_path: Path
) -> None:
    present, description, bounds = SPARSE[case]
    path = write_sparse(tmp_path / "sparse.tif", present, description=description)
    with open_slide(path, reader=reader) as slide:
        assert (slide.reader, slide.width, slide.height) == ("tiff", 512, 384)
        assert slide.qupath_bounds == bounds
        again = pickle.loads(pickle.dumps(slide))
        assert again.qupath_bounds == bounds
        again.close()


@pytest.mark.parametrize("head", [None, {"frame": "qupath", "bounds": list(BOUNDS)}])
def test_a_region_drawn_in_qupath_is_the_same_pixels_as_a_mask(head: Any, tmp_path: Path) -> None:
    # The right half of what QuPath shows.
    left, (width, height) = SIZE[0] // 2, SIZE
    half = [[left, 0], [width, 0], [width, height], [left, height], [left, 0]]
    path = written(tmp_path / "r.geojson", collection({"type": "Polygon", "coordinates": [half]}, head))
    with open_slide(write_scn(tmp_path / "a.scn")) as slide:
        mask = TissueMask.from_geojson(path, slide, None if head else "qupath")
        expected = np.zeros(CANVAS[::-1], bool)
        expected[OFFSET[1] : OFFSET[1] + height, OFFSET[0] + left : OFFSET[0] + width] = True
        assert mask.area_px0 == left * height
        rows = np.arange(CANVAS[1]) / mask.scale_xy[1]
        columns = np.arange(CANVAS[0]) / mask.scale_xy[0]
        full = mask.array[np.ix_(rows.astype(int), columns.astype(int))]
        # outlines are painted with every px they touch
        assert full[expected].all()
        assert full.sum() <= (left + 4) * (height + 4)
        # the fault: the same numbers as px of the whole slide lie somewhere else
        if head is None:
            off = TissueMask.from_geojson(path, slide, "level0")
            assert not np.array_equal(off.array, mask.array)
            with pytest.raises(FrameNeededError, match=r"\(256, 128\)"):
                TissueMask.from_geojson(path, slide)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_slide_that_was_turned_says_that_qupath_does_not_turn_it(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(path, np.zeros((96, 64, 3), np.uint8), photometric="rgb", tile=(32, 32), extratags=[tag])
    with open_slide(path) as slide:
        assert slide.qupath_bounds is None
        said = [note for note in slide.description.notes if "QuPath shows it as it is stored" in note]
        assert len(said) == (orientation != 1)


def test_nothing_is_asked_where_qupath_shows_the_whole_slide(tmp_path: Path) -> None:
    path = written(tmp_path / "r.geojson", collection())
    slide = ArraySlide(blank(600, 400))
    masks = [TissueMask.from_geojson(path, slide, frame).array for frame in (None, "qupath", "level0")]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
