"""Regions drawn elsewhere become the mask, in every shape that GeoJSON files come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from array_slide import ArraySlide, blank

from wsi import TileGrid, TissueMask
from wsi.errors import MaskError

SLIDE = ArraySlide(blank(1000, 800))
SQUARE = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
HOLE = [[150, 150], [250, 150], [250, 250], [150, 250], [150, 150]]
POINT = {"type": "Point", "coordinates": [1, 2]}
FAR = [[600, 500], [700, 500], [700, 600], [600, 600], [600, 500]]


def _polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def _feature(geometry: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}


CASES = {
    "collection": ({"type": "FeatureCollection", "features": [_feature(_polygon(SQUARE))]}, 40_000),
    "bare list": ([_feature(_polygon(SQUARE)), _feature(_polygon(FAR))], 50_000),
    "one feature": (_feature(_polygon(SQUARE)), 40_000),
    "one geometry": (_polygon(SQUARE), 40_000),
    "hole": (_feature(_polygon(SQUARE, HOLE)), 30_000),
    "multi-polygon": (_feature({"type": "MultiPolygon", "coordinates": [[SQUARE], [FAR]]}), 50_000),
    "geometry collection": (_feature({"type": "GeometryCollection", "geometries": [_polygon(SQUARE), POINT]}), 40_000),
    "overlap counts once": ([_feature(_polygon(SQUARE)), _feature(_polygon(SQUARE, HOLE))], 40_000),
    "open ring": (_feature(_polygon(SQUARE[:-1])), 40_000),
    "third coordinate": (_feature(_polygon([[x, y, 0] for x, y in SQUARE])), 40_000),
    "QuPath plane": (_feature({**_polygon(SQUARE), "plane": {"c": -1, "z": 0, "t": 0}}), 40_000),
    "beyond the slide": (_feature(_polygon([[900, 700], [1200, 700], [1200, 900], [900, 900]])), 10_000),
    "crossing outline": (_feature(_polygon([[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]])), 5_000),
    "points beside": (
        [_feature({"type": "Point", "coordinates": [5, 5]}), _feature(_polygon(SQUARE)), _feature(None)],
        40_000,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_regions_are_read(case: str, packed: bool, tmp_path: Path) -> None:
    document, area = CASES[case]
    text = json.dumps(document).encode()
    path = tmp_path / ("regions.geojson.gz" if packed else "regions.geojson")
    path.write_bytes(gzip.compress(text) if packed else text)
    mask = TissueMask.from_geojson(path, SLIDE)
    assert mask.area_px0 == pytest.approx(area)
    # outlines are painted with every px they touch
    assert area * 0.98 <= mask.raster_area_px0 <= area * 1.12
    json.dumps(mask.describe())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not GeoJSON"),
        (b"{", "not GeoJSON"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (b"\xff\xfe\x00", "not GeoJSON"),
        (b"[]", "holds no polygon"),
        (b'{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        (b'{"type": "Point", "coordinates": [1, 2]}', "holds no polygon"),
        (b"[" * 100_000, "not GeoJSON"),
        (json.dumps([_feature(_polygon([[0, 0], ["a", 1], [2, 2]]))]).encode(), "feature 0"),
        (json.dumps([_feature({"type": "Polygon", "coordinates": 5})]).encode(), "feature 0"),
        (json.dumps([_feature({"type": "Blob", "coordinates": []})]).encode(), "feature 0"),
        (json.dumps([_feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})]).encode(), "holds no polygon"),
        (json.dumps(_polygon([[5000, 5000], [6000, 5000], [6000, 6000]])).encode(), "lies on the slide"),
        (b'{"type":"Polygon","coordinates":[[[0,0],[NaN,1],[2,2],[0,0]]]}', "the file"),
    ],
)
def test_bad_files_are_refused_with_a_reason(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.geojson"
    path.write_bytes(content)
    with pytest.raises(MaskError, match=words) as raised:
        TissueMask.from_geojson(path, SLIDE)
    assert "bad.geojson" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="no GeoJSON file"):
        TissueMask.from_geojson(tmp_path / "none.geojson", SLIDE)


def test_a_region_thinner_than_a_mask_px_still_gets_its_tiles(tmp_path: Path) -> None:
    slide = ArraySlide(blank(6000, 5000))
    path = tmp_path / "thin.geojson"
    path.write_text(json.dumps(_polygon([[3000.2, 100], [3000.4, 100], [3000.4, 4900], [3000.2, 4900]])))
    mask = TissueMask.from_geojson(path, slide)
    grid = TileGrid.from_slide(slide, tile_size=500, mask=mask)
    assert set(grid.x0.tolist()) == {3000}
    assert len(grid) == 10


@pytest.mark.real
def test_a_file_written_by_qupath(real_data: Path) -> None:
    slide = ArraySlide(blank(20, 16))
    # only the size matters: the annotations lie within 32,000 x 32,000 px
    slide.levels = (type(slide.levels[0])(32_000, 32_000, 1.0),)
    mask = TissueMask.from_geojson(real_data / "annotations" / "qupath05.geojson", slide)
    assert 0 < mask.area_px0 < 32_000**2
    assert mask.raster_area_px0 == pytest.approx(mask.area_px0, rel=0.1)
