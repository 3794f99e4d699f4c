"""Scenes and the slides written from them: seamless, readable by others, true to their truth files."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from shapely.geometry import Polygon, shape

from wsi.synthetic import CLASSES, REGIONS, Scanner, Scene, SlideFactory, WrittenSlide, write_slide
from wsi.synthetic.writing.truth import region_polygons

openslide = pytest.importorskip("openslide")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(400, 300, seed=3)


@pytest.fixture(scope="module")
def slide(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> WrittenSlide:
    return write_slide(tmp_path_factory.mktemp("slide") / "demo.svs", scene)


@pytest.mark.parametrize(("mpp", "cut"), [(0.25, 133), (0.5, 61), (2.0, 10)])
def test_windows_continue_each_other(scene: Scene, mpp: float, cut: int) -> None:
    whole = scene.render(100, 80, 300, 200, mpp)
    left = scene.render(100, 80, cut, 200, mpp)
    right = scene.render(100 + cut * mpp, 80, 300 - cut, 200, mpp)
    difference = np.abs(whole.astype(int) - np.hstack([left, right]))
    # SIMD tails of different widths round the last bit differently
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert whole.std() > 5


def test_scales_agree(scene: Scene) -> None:
    fine = scene.render(100, 80, 512, 512, 0.25).reshape(256, 2, 256, 2, 3).mean((1, 3))
    coarse = scene.render(100, 80, 256, 256, 0.5)
    assert np.abs(fine.mean((0, 1)) - coarse.mean((0, 1))).max() < 8


def test_nuclei_do_not_depend_on_the_window(scene: Scene) -> None:
    whole = scene.nuclei(100, 80, 150, 120)
    left, right = scene.nuclei(100, 80, 61, 120), scene.nuclei(161, 80, 89, 120)
    assert len(whole) > 50
    assert len(left) + len(right) == len(whole)
    both = np.concatenate([left.polygon_um, right.polygon_um])
    order = np.lexsort(both.mean(axis=1).T)
    np.testing.assert_array_equal(both[order], whole.polygon_um[np.lexsort(whole.polygon_um.mean(axis=1).T)])


def test_seed_decides(scene: Scene) -> None:
    again, other = Scene(400, 300, seed=3), Scene(400, 300, seed=4)
    view = (120, 100, 64, 64, 0.5)
    assert np.array_equal(scene.render(*view), again.render(*view))
    assert not np.array_equal(scene.region_map(8), other.region_map(8))


def test_every_region_class_is_on_a_larger_slide() -> None:
    index = Scene(1024, 1024, seed=7).region_map(32)
    assert set(np.unique(index)) >= {REGIONS.index(n) for n in ("tumor", "stroma", "necrosis", "background")}


def test_openslide_sees_an_aperio_slide(slide: WrittenSlide) -> None:
    with openslide.OpenSlide(slide.path) as opened:
        assert opened.properties["openslide.vendor"] == "aperio"
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert opened.properties["openslide.objective-power"] == "40"
        assert opened.level_dimensions == ((1600, 1200), (400, 300), (100, 75))
        assert opened.level_downsamples == (1, 4, 16)
        for level, (w, h) in enumerate(opened.level_dimensions):
            seen = np.asarray(opened.read_region((0, 0), level, (w, h)).convert("RGB"))
            assert np.array_equal(seen, tifffile.imread(slide.path, key=level))


def test_written_pixels_are_the_rendered_ones(slide: WrittenSlide, scene: Scene) -> None:
    written = tifffile.imread(slide.path, key=0).astype(float)
    rendered = scene.render(0, 0, 1600, 1200, 0.25).astype(float)
    assert np.abs(written - rendered).mean() < 6  # JPEG
    level = tifffile.imread(slide.path, key=1).astype(float)
    average = rendered.reshape(300, 4, 400, 4, 3).mean((1, 3))
    assert np.abs(level - average).mean() < 6


def test_generic_tiff_states_its_scale(scene: Scene, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "plain.tif", scene, mpp=0.5, tile=128, downsamples=(1, 2), truth=False).path
    with openslide.OpenSlide(path) as opened:
        assert opened.properties["openslide.vendor"] == "generic-tiff"
        assert opened.level_dimensions == ((800, 600), (400, 300))
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(version: str, scene: Scene, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.ome.zarr", scene, tile=256, ngff_version=version, truth=False).path  # type: ignore[arg-type]
    group = zarr.open_group(str(path), mode="r")
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    attributes = dict(group.attrs)
    image = (attributes["ome"] if version == "0.5" else attributes)["multiscales"][0]
    assert [a["name"] for a in image["axes"]] == ["c", "y", "x"]
    assert image["axes"][1] == {"name": "y", "type": "space", "unit": "micrometer"}
    for dataset, scale, size in zip(
        image["datasets"], (0.25, 1.0, 4.0), ((3, 1200, 1600), (3, 300, 400), (3, 75, 100)), strict=True
    ):
        assert dataset["coordinateTransformations"][0] == {"type": "scale", "scale": [1.0, scale, scale]}
        assert group[dataset["path"]].shape == size
    pixels = np.moveaxis(group["0"][:], 0, -1)
    rendered = scene.render(0, 0, 1600, 1200, 0.25)
    assert np.abs(pixels.astype(int) - rendered).max() <= 1


def test_truth_is_qupath_geojson(slide: WrittenSlide, scene: Scene) -> None:
    assert slide.truth is not None
    assert slide.regions is not None
    collection = json.loads(slide.truth.read_text())
    assert collection["type"] == "FeatureCollection"
    kinds: dict[str, list[dict]] = {"annotation": [], "detection": []}
    for feature in collection["features"]:
        uuid.UUID(feature["id"])
        properties = feature["properties"]
        assert len(properties["classification"]["color"]) == 3
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        assert shape(feature["geometry"]).is_valid
        kinds[properties["objectType"]].append(feature)
    assert len({f["id"] for f in collection["features"]}) == len(collection["features"])
    planted = scene.nuclei(0, 0, 400, 300)
    assert len(kinds["detection"]) == len(planted) == slide.nuclei > 100
    for name in CLASSES:
        count = sum(f["properties"]["classification"]["name"] == name for f in kinds["detection"])
        assert count == planted.labels.count(name)
    assert {f["properties"]["classification"]["name"] for f in kinds["annotation"]} >= {"tumor", "stroma"}


def test_regions_of_a_larger_slide_are_valid_and_cover_the_map() -> None:
    index = Scene(1024, 1024, seed=7).region_map(32)
    for region in np.unique(index):
        mask = index == region
        polygons = [Polygon(rings[0], rings[1:]) for rings in region_polygons(mask, 32)]
        assert all(p.is_valid for p in polygons)
        assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * 32 * 32, rel=0.02)


def test_planted_nuclei_are_dark_in_the_file(tmp_path: Path) -> None:
    scene = Scene(400, 300, seed=3, scanner=Scanner(), artefacts=())
    path = write_slide(tmp_path / "s.svs", scene, quality=95, truth=False).path
    red = tifffile.imread(path, key=0)[..., 0].astype(float)
    centres = (scene.nuclei(20, 20, 360, 260).centre_um / 0.25).astype(int)
    tissue = scene.region_map(1) != REGIONS.index("background")
    assert red[centres[:, 1], centres[:, 0]].mean() < red[tissue].mean() - 15


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    factory = SlideFactory(width_px=256, height_px=256)
    path = tmp_path / "a.svs"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        factory.write(path, 1)
    assert path.read_bytes() == b"mine"
    factory.write(path, 1, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"a.svs", "a.truth.geojson", "a.regions.png"}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SlideFactory(width_px=256, height_px=256).write(tmp_path / "a.svs", 1, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [{"tile": 100}, {"quality": 0}, {"downsamples": (2, 4)}, {"downsamples": (1, 1000)}])
def test_bad_settings_are_refused(bad: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(bad)) + "|no level"):
        SlideFactory(width_px=256, height_px=256).write(tmp_path / "a.svs", 1, **bad)


def test_memory_follows_the_strip_not_the_slide(tmp_path: Path) -> None:
    """Four times as high must not take more memory; tall and narrow shows it best."""
    peaks = []
    for height in (2048, 8192):
        scene = Scene(128, height * 0.25, seed=1)
        scene.render(0, 0, 64, 64, 0.25)
        tracemalloc.start()
        write_slide(tmp_path / f"{height}.svs", scene, truth=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]
