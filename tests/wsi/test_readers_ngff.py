"""OME-Zarr: levels and scale as stated per axis, holes and damage told apart, departures read or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ngff_files import axes_of, image_of, ramp, scale, write_image, write_metadata, write_zarr
from slide_files import tissue, zipped

from wsi import Plane, ReadError, Rendering, UnsupportedSlideError, open_slide
from wsi.errors import SlideError

BOTH = pytest.mark.parametrize("modern", [True, False], ids=["0.5", "0.4"])


def ome(*images: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "0.5", "multiscales": list(images), **more}


def old(*images: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"multiscales": [{"version": "0.4", **image} for image in images], **more}


def stated(path: Path, arrays: list[np.ndarray], axes: str, scales: list[Any], modern: bool, **more: Any) -> Path:
    image = image_of(axes, scales, **more)
    given = {str(n): values for n, values in enumerate(arrays)}
    return write_zarr(path, given, (ome if modern else old)(image), modern=modern)


def blank(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


# Sizes (width, height) of the datasets, their stated scales (y, x), what the levels are, and words of a note.
LEVELS: dict[str, tuple[list[tuple[int, int]], list[Any], list[tuple[int, int, float, float]], str]] = {
    "padded to whole chunks": ([(100, 70), (64, 48)], [(0.5, 0.5), (1, 1)], [(100, 70, 1, 1), (50, 35, 2, 2)], ""),
    "cut to whole chunks": ([(100, 70), (48, 32)], [(0.5, 0.5), (1, 1)], [(100, 70, 1, 1), (48, 32, 2, 2)], ""),
    "rounded up": ([(101, 71), (51, 36)], [(0.5, 0.5), (1, 1)], [(101, 71, 1, 1), (51, 36, 2, 2)], ""),
    "rounded down": ([(101, 71), (50, 35)], [(0.5, 0.5), (1, 1)], [(101, 71, 1, 1), (50, 35, 2, 2)], ""),
    "scale as 0.1 x 3": ([(90, 60), (30, 20)], [(0.1, 0.1), (0.1 * 3, 0.3)], [(90, 60, 1, 1), (30, 20, 3, 3)], ""),
    "factors of its own per axis": (
        [(101, 71), (50, 35)],
        [(1, 1), (71 / 35, 101 / 50)],
        [(101, 71, 1, 1), (50, 35, 2.02, 71 / 35)],
        "",
    ),
    "oblong px": ([(80, 40), (40, 20)], [(1, 0.5), (2, 1)], [(80, 40, 1, 1), (40, 20, 2, 2)], ""),
    "x alone": ([(80, 40), (40, 40)], [(0.5, 0.5), (0.5, 1)], [(80, 40, 1, 1)], "shrinks by 2 along x and 1 along y"),
    "contradicted by its size": (
        [(80, 40), (40, 20), (20, 10)],
        [(1, 1), (2, 2), (5, 5)],
        [(80, 40, 1, 1), (40, 20, 2, 2)],
        "size contradicts",
    ),
    "one scale for all": ([(80, 40), (40, 20)], [(1, 1), (1, 1)], [(80, 40, 1, 1), (40, 20, 2, 2)], "the same scale"),
    "nothing stated": ([(80, 40), (40, 20)], [None, None], [(80, 40, 1, 1), (40, 20, 2, 2)], "states no scale"),
    "wrong order": ([(40, 20), (80, 40)], [(1, 1), (0.5, 0.5)], [(80, 40, 1, 1), (40, 20, 2, 2)], "by their scale"),
    "wrong order, unstated": ([(40, 20), (80, 40)], [None, None], [(80, 40, 1, 1), (40, 20, 2, 2)], "by their size"),
}


@BOTH
@pytest.mark.parametrize("name", LEVELS)
def test_levels(tmp_path: Path, name: str, modern: bool) -> None:
    sizes, scales, wanted, words = LEVELS[name]
    path = stated(tmp_path / "a.zarr", [blank(h, w) for w, h in sizes], "yx", scales, modern)
    with open_slide(path) as slide:
        found = [(of.width, of.height, of.downsample_x, of.downsample_y) for of in slide.levels]
        assert found == [pytest.approx(level) for level in wanted]
        assert words in " ".join(slide.description.notes)
        assert bool(words) == bool(slide.description.notes) or "no chunk" in slide.description.notes[-1]


@pytest.mark.parametrize("stored", [(1000, 1024), (960, 480), (1000, 500)])
def test_lines_lie_where_they_are_on_every_level(tmp_path: Path, stored: tuple[int, int]) -> None:
    """Level 1 holds white columns at 10, 30, 50, 70 px: 20, 60, 100, 140 px of level 0, padded, cut or whole."""
    top, low = (blank(1000, 1000), blank(stored[1] if stored[1] < 600 else 512, 512 if stored[1] > 600 else stored[1]))
    top[:, 20:160:40], low[:, 10:80:20] = 255, 255
    path = write_zarr(
        tmp_path / "a.zarr", {"0": top, "1": low}, ome(image_of("yx", [(0.5, 0.5), (1, 1)])), chunks=(16, 16)
    )
    with open_slide(path) as slide:
        row = slide.read_scaled(0, 0, 400, 400, (200, 200))[5, :, 0]
        assert list(np.flatnonzero(row > 100)) == [10, 30, 50, 70]
        right = slide.read_scaled(800, 800, 200, 200, (100, 100))
        assert right.shape == (100, 100, 3)


def test_what_a_cut_level_lacks_is_read_from_a_finer_one(tmp_path: Path) -> None:
    top = tissue(200, 200)[..., 0]
    path = stated(tmp_path / "a.zarr", [top, top[::2, ::2][:96, :96]], "yx", [(1, 1), (2, 2)], True)
    with open_slide(path) as slide:
        got = slide.read_scaled(160, 160, 40, 40, (20, 20))[..., 0].astype(int)
    wanted = top[160:, 160:].reshape(20, 2, 20, 2).mean((1, 3))
    assert np.abs(got - wanted).max() <= 1


@BOTH
@pytest.mark.parametrize(("axis", "axes"), [("z", "zyx"), ("t", "tyx"), ("c", "cyx")])
def test_a_level_with_fewer_planes_is_no_level_of_one_plane(tmp_path: Path, axis: str, axes: str, modern: bool) -> None:
    top = np.stack([np.full((40, 60), 10 * n, np.uint8) for n in range(8)])
    low = np.stack([np.full((20, 30), 10 * n + 5, np.uint8) for n in range(4)])
    same = [[1.0, 0.5, 0.5], [1.0, 0.5, 0.5]]
    for number, scales in enumerate((same, [[1.0, 0.5, 0.5], [2.0, 1.0, 1.0]])):
        path = stated(tmp_path / f"{number}.zarr", [top, low], axes, scales, modern)
        plane = Plane(**{axis: 3}) if axis != "c" else None
        rendering = Rendering.gray(3) if axis == "c" else None
        with open_slide(path, plane=plane, rendering=rendering) as slide:
            assert len(slide.levels) == 1
            assert f"differs along {axis} (4 of 8)" in " ".join(slide.description.notes)
            assert (slide.thumbnail(20) == 30).all()


def test_translations_of_levels(tmp_path: Path) -> None:
    """Half a px of the coarser level is how px are measured at their middle; more is another place."""
    for moved, levels in ((0.0, 2), (0.25, 2), (-0.25, 2), (4.0, 1), (-4.0, 1)):
        image = image_of("yx", [(0.5, 0.5), (1, 1)])
        for dataset, at in zip(image["datasets"], (7.0, 7.0 + moved), strict=True):
            dataset["coordinateTransformations"].append({"type": "translation", "translation": [at, at]})
        path = write_zarr(tmp_path / f"{moved}.zarr", {"0": ramp(40, 40), "1": ramp(20, 20)}, ome(image))
        with open_slide(path) as slide:
            assert len(slide.levels) == levels
            assert ("begins" in " ".join(slide.description.notes)) == (levels == 1)


def test_translation_before_scale_is_put_right(tmp_path: Path) -> None:
    image = image_of("yx", [(0.5, 0.5)])
    image["datasets"][0]["coordinateTransformations"].insert(0, {"type": "translation", "translation": [2.0, 2.0]})
    path = write_zarr(tmp_path / "a.zarr", {"0": ramp(20, 20)}, ome(image))
    with open_slide(path) as slide:
        assert slide.mpp_xy == (0.5, 0.5)


def test_levels_of_another_type_or_listed_twice_are_left_out(tmp_path: Path) -> None:
    image = image_of("yx", [(1, 1), (2, 2), (4, 4)])
    image["datasets"][2]["path"] = "1"
    arrays = {"0": ramp(80, 40), "1": ramp(40, 20)}
    with open_slide(write_zarr(tmp_path / "a.zarr", arrays, ome(image))) as slide:
        assert len(slide.levels) == 2
        assert "listed twice" in slide.description.notes[0]
    arrays = {"0": ramp(80, 40), "1": ramp(40, 20, "u2"), "2": ramp(20, 10)}
    with open_slide(write_zarr(tmp_path / "b.zarr", arrays, ome(image_of("yx", [(1, 1), (2, 2), (4, 4)])))) as slide:
        assert [of.downsample for of in slide.levels] == [1, 4]
        assert "uint16" in slide.description.notes[0]


@BOTH
def test_image_scale_multiplies_and_units_count(tmp_path: Path, modern: bool) -> None:
    image = image_of("zyx", [(2, 100, 200)], coordinateTransformations=scale(3, 2, 2))
    image["axes"] = axes_of("zyx", "nanometer")
    path = write_zarr(tmp_path / "a.zarr", {"0": blank(2, 8, 8)}, (ome if modern else old)(image), modern=modern)
    with open_slide(path, plane=Plane()) as slide:
        assert slide.mpp_xy == pytest.approx((0.4, 0.2))
        assert slide.depth_um == pytest.approx(0.006)
        assert "nanometer" in slide.description.mpp_from


def test_times_depths_and_names_are_kept(tmp_path: Path) -> None:
    image = image_of("tczyx", [(2.5, 1, 1.5, 0.5, 0.5)])
    image["axes"][0]["unit"] = "second"
    channels = {"channels": [{"label": "DAPI", "color": "0000FF"}, {"label": "CD3"}]}
    path = write_zarr(tmp_path / "a.zarr", {"0": blank(3, 2, 4, 8, 8)}, ome(image, omero=channels))
    with open_slide(path, plane=Plane(), rendering=Rendering.gray(1)) as slide:
        assert slide.seconds == (0, 2.5, 5)
        assert slide.depth_um == 1.5
        assert slide.layout.names == ("DAPI", "CD3")
        assert slide.description.hole == 0


# What is put in place of a key of the image's metadata, and what is stated then: mpp, or words of the error.
DEPARTURES: dict[str, tuple[dict[str, Any], float | str | None]] = {
    "transformations of the image null": ({"coordinateTransformations": None}, 0.5),
    "transformations of the image empty": ({"coordinateTransformations": []}, 0.5),
    "transformations of the dataset null": ({"datasets": [{"path": "0", "coordinateTransformations": None}]}, None),
    "no transformations": ({"datasets": [{"path": "0"}]}, None),
    "identity": ({"datasets": [{"path": "0", "coordinateTransformations": [{"type": "identity"}]}]}, None),
    "dot in path": ({"datasets": [{"path": "./0/", "coordinateTransformations": scale(0.5, 0.5)}]}, 0.5),
    "no name": ({"name": None}, 0.5),
    "name is a number": ({"name": 7}, 0.5),
    "axes as text (0.3)": ({"axes": ["y", "x"]}, None),
    "axes without type": ({"axes": [{"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "micrometer"}]}, 0.5),
    "axes in capitals": ({"axes": [{"name": "Y", "type": "space"}, {"name": "X", "type": "space"}]}, None),
    "unit is a number": ({"axes": [{"name": a, "type": "space", "unit": 3} for a in "yx"]}, None),
    "axis named as another": ({"axes": [{"name": "y", "type": "channel"}, {"name": "x", "type": "space"}]}, "axes"),
    "axis twice": ({"axes": axes_of("yy")}, "axes: "),
    "axis unknown": ({"axes": [{"name": "q", "type": "space"}, {"name": "x", "type": "space"}]}, "axes: "),
    "axes null": ({"axes": None}, "axes: None"),
    "too many axes": ({"axes": axes_of("zyx")}, "axes"),
    "scale too short": ({"datasets": [{"path": "0", "coordinateTransformations": scale(0.5)}]}, r"scale: \[0.5\]"),
    "scale of text": ({"datasets": [{"path": "0", "coordinateTransformations": scale("a", 1)}]}, "'a' is no number"),
    "scale of bool": ({"datasets": [{"path": "0", "coordinateTransformations": scale(True, 1)}]}, "True is no number"),
    "scale zero": ({"datasets": [{"path": "0", "coordinateTransformations": scale(0.5, 0)}]}, "0 along x"),
    "scale negative": ({"datasets": [{"path": "0", "coordinateTransformations": scale(-1, 1)}]}, "-1 along y"),
    "scale NaN": ({"datasets": [{"path": "0", "coordinateTransformations": scale(0.5, float("nan"))}]}, "nan along x"),
    "scale huge": ({"datasets": [{"path": "0", "coordinateTransformations": scale(10**400, 1)}]}, "is no number"),
    "affine": ({"datasets": [{"path": "0", "coordinateTransformations": [{"type": "affine"}]}]}, "'affine'"),
    "two scales": ({"datasets": [{"path": "0", "coordinateTransformations": scale(1, 1) * 2}]}, "scale, scale"),
    "no datasets": ({"datasets": []}, r"datasets: \[\]"),
    "datasets null": ({"datasets": None}, "datasets: None"),
    "dataset missing": ({"datasets": [{"path": "7", "coordinateTransformations": scale(1, 1)}]}, "'7', which is not"),
    "path null": ({"datasets": [{"path": None, "coordinateTransformations": scale(1, 1)}]}, "path: None"),
    "path out of the folder": ({"datasets": [{"path": "../b/0", "coordinateTransformations": scale(1, 1)}]}, "leaves"),
    "path absolute": ({"datasets": [{"path": "/etc", "coordinateTransformations": scale(1, 1)}]}, "leaves"),
    "path an address": ({"datasets": [{"path": "http://h/0", "coordinateTransformations": scale(1, 1)}]}, "leaves"),
    "path empty": ({"datasets": [{"path": "", "coordinateTransformations": scale(1, 1)}]}, "is no path"),
    "scale by path that is not there": (
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "path": "s/0"}]}]},
        "'s/0'",
    ),
    "coordinate systems of 0.6": ({"version": "0.6", "coordinateSystems": []}, "0.6"),
}


@BOTH
@pytest.mark.parametrize("name", DEPARTURES)
def test_departures_are_read_or_named(tmp_path: Path, name: str, modern: bool) -> None:
    change, wanted = DEPARTURES[name]
    image = {**image_of("yx", [(0.5, 0.5)]), **change}
    metadata = {"version": change.get("version", "0.5"), "multiscales": [image]} if modern else old(image)
    path = write_zarr(tmp_path / "a.zarr", {"0": ramp(40, 30)}, metadata, modern=modern)
    if isinstance(wanted, str):
        with pytest.raises(UnsupportedSlideError, match=wanted) as caught:
            open_slide(path)
        assert "a.zarr" in str(caught.value)
        return
    with open_slide(path) as slide:
        assert slide.mpp == wanted
        np.testing.assert_array_equal(slide.read(0, 0, 40, 30)[..., 0], ramp(40, 30))


def test_scale_by_path_is_read(tmp_path: Path) -> None:
    image = image_of("yx", [(0.5, 0.5)])
    image["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "path": "scales"}]
    arrays = {"0": ramp(40, 30), "scales": np.array([0.25, 0.5])}
    with open_slide(write_zarr(tmp_path / "a.zarr", arrays, ome(image))) as slide:
        assert slide.mpp_xy == (0.5, 0.25)


def test_nested_dataset_paths(tmp_path: Path) -> None:
    image = image_of("yx", [(0.5, 0.5), (1, 1)])
    for dataset, place in zip(image["datasets"], ("scale0/image", "scale1/image"), strict=True):
        dataset["path"] = place
    arrays = {"scale0/image": ramp(40, 30), "scale1/image": ramp(20, 15)}
    path = write_zarr(tmp_path / "a.zarr", arrays, ome(image))
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with open_slide(place) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 20, 15, level=1)[..., 0], ramp(20, 15))


@pytest.mark.parametrize("version", ["0.6", "0.6.dev1", "0.7", "1.0", "", 0.5, None, [], {}])
def test_versions(tmp_path: Path, version: Any) -> None:
    metadata = {"version": version, "multiscales": [image_of("yx", [(0.5, 0.5)])]}
    path = write_zarr(tmp_path / "a.zarr", {"0": ramp(40, 30)}, metadata)
    if version is None:
        open_slide(path).close()
        return
    with pytest.raises(UnsupportedSlideError, match="version") as caught:
        open_slide(path)
    if str(version).startswith("0.6"):
        assert f"version {version}" in str(caught.value)
        assert "RFC-5" in str(caught.value)


def test_six_without_a_word_is_known_by_its_coordinate_systems(tmp_path: Path) -> None:
    image = image_of("yx", [(0.5, 0.5)])
    image["coordinateSystems"] = [{"name": "phys", "axes": image.pop("axes")}]
    path = write_zarr(tmp_path / "a.zarr", {"0": ramp(40, 30)}, {"multiscales": [image]})
    with pytest.raises(UnsupportedSlideError, match=r"0\.6"):
        open_slide(path)


@pytest.mark.parametrize(
    ("omero", "rgb", "names"),
    [
        (None, False, ()),
        ({"channels": None}, False, ()),
        ({"channels": [{"color": c} for c in ("FF0000", "00FF00", "0000FF")]}, True, ()),
        ({"channels": [{"color": c} for c in ("#ff0000", "#00ff00", "#0000ffFF")]}, True, ()),
        ({"channels": [{"label": n, "color": 7} for n in ("Red", "green", "BLUE")]}, True, ("Red", "green", "BLUE")),
        ({"channels": [{"label": n} for n in ("a", "b")]}, False, ()),
        ({"channels": [{"label": 1}, {"label": None}, {"label": "c"}]}, False, ("", "", "c")),
        ({"channels": [{"color": c, "inverted": True} for c in ("FF0000", "00FF00", "0000FF")]}, False, ()),
        ({"channels": [None, 1, 2]}, False, ()),
        (7, False, ()),
    ],
)
def test_omero_is_read_leniently(tmp_path: Path, omero: Any, rgb: bool, names: tuple[str, ...]) -> None:
    image = np.moveaxis(tissue(40, 30), -1, 0)
    path = write_zarr(tmp_path / "a.zarr", {"0": image}, ome(image_of("cyx", [(1, 0.5, 0.5)]), omero=omero))
    with open_slide(path, rendering=None if rgb else Rendering.rgb()) as slide:
        assert slide.layout.is_rgb == rgb
        assert slide.layout.names == names
        np.testing.assert_array_equal(slide.read(0, 0, 40, 30), tissue(40, 30))


STORED: dict[str, tuple[bool, dict[str, Any]]] = {
    "chunks with c apart": (True, {"chunks": (1, 16, 16)}),
    "chunks with c in them": (True, {"chunks": (3, 16, 16)}),
    "one chunk": (True, {"chunks": (3, 60, 80)}),
    "shards": (True, {"chunks": (1, 16, 16), "shards": (3, 32, 32)}),
    "shards, index at start": (
        True,
        {
            "chunks": (3, 32, 32),
            "shards": None,
            "serializer": zarr.codecs.ShardingCodec(chunk_shape=(1, 16, 16), index_location="start"),
            "compressors": None,
        },
    ),
    "blosc": (True, {"compressors": zarr.codecs.BloscCodec()}),
    "gzip": (True, {"compressors": zarr.codecs.GzipCodec()}),
    "zstd with checksum": (True, {"compressors": zarr.codecs.ZstdCodec(checksum=True)}),
    "checksum": (True, {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]}),
    "bare": (True, {"compressors": None}),
    "transposed": (True, {"filters": zarr.codecs.TransposeCodec(order=(2, 1, 0))}),
    "0.4 blosc": (False, {"compressors": zarr.registry.get_numcodec({"id": "blosc"})}),
    "0.4 zlib": (False, {"compressors": zarr.registry.get_numcodec({"id": "zlib"})}),
    "0.4 gzip": (False, {"compressors": zarr.registry.get_numcodec({"id": "gzip"})}),
    "0.4 bz2": (False, {"compressors": zarr.registry.get_numcodec({"id": "bz2"})}),
    "0.4 lzma": (False, {"compressors": zarr.registry.get_numcodec({"id": "lzma"})}),
    "0.4 lz4": (False, {"compressors": zarr.registry.get_numcodec({"id": "lz4"})}),
    "0.4 bare": (False, {"compressors": None}),
    "0.4 with a filter": (False, {"filters": [zarr.registry.get_numcodec({"id": "delta", "dtype": "u1"})]}),
    "0.4 column-major": (False, {"order": "F"}),
    "0.4 keys with slashes": (False, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", STORED)
def test_every_form_of_storage_gives_what_zarr_gives(tmp_path: Path, name: str, form: str) -> None:
    modern, options = STORED[name]
    image = np.moveaxis(tissue(80, 60), -1, 0)
    path = write_zarr(
        tmp_path / "a.zarr",
        {"0": image},
        (ome if modern else old)(image_of("cyx", [(1, 0.5, 0.5)])),
        modern=modern,
        **options,
    )
    place = path if form == "folder" else zipped(path, tmp_path / "a.zip")
    with open_slide(place, rendering=Rendering.rgb()) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 80, 60), tissue(80, 60))
        np.testing.assert_array_equal(slide.read(13, 7, 41, 39), tissue(80, 60)[7:46, 13:54])
    with open_slide(place, rendering=Rendering.parse("2:red,0:green")) as slide:
        np.testing.assert_array_equal(slide.read(5, 5, 30, 30)[..., :2], tissue(80, 60)[5:35, 5:35, [2, 0]])


@pytest.mark.parametrize("axes", ["yxc", "cyx", "ycx", "tczyx", "zcyx"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i2", "f4", "?"])
def test_every_order_and_type(tmp_path: Path, axes: str, dtype: str) -> None:
    values = tissue(40, 30).astype(dtype)
    shape = {"y": 30, "x": 40, "c": 3}
    stored = values.transpose(["yxc".index(a) for a in axes if a in "yxc"])
    stored = stored.reshape([shape.get(axis, 1) for axis in axes])
    path = write_zarr(tmp_path / "a.zarr", {"0": stored}, old(image_of(axes, [[1.0] * len(axes)])), modern=False)
    text = ",".join(f"{i}:{c}:0-{1 if dtype == '?' else 255}" for i, c in enumerate(("red", "green", "blue")))
    with open_slide(path, rendering=Rendering.parse(text)) as slide:
        wanted = np.round(values.astype(float) * (255 if dtype == "?" else 1))
        np.testing.assert_array_equal(slide.read(0, 0, 40, 30), wanted.astype(np.uint8))
        raw = slide._source.read_channel(3, 2, 8, 9, 0, 0, 0, 1)
        np.testing.assert_array_equal(raw, values[2:11, 3:11, 1])
        assert raw.dtype.isnative


# ---- holes and damage


@BOTH
@pytest.mark.parametrize("fill", [0, 7, 255])
def test_a_chunk_that_is_not_there_is_the_fill_value(tmp_path: Path, fill: int, modern: bool) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(64, 48), modern=modern, fill_value=fill)
    chunk = path / "0" / ("c/0/1" if modern else "0.1")
    chunk.unlink()
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with open_slide(place) as slide:
            assert slide.description.hole == fill
            got = slide.read(0, 0, 64, 48)[..., 0]
            wanted = ramp(64, 48)
            wanted[:16, 16:32] = fill
            np.testing.assert_array_equal(got, wanted)


DAMAGE = {
    "empty": lambda chunk: chunk.write_bytes(b""),
    "cut": lambda chunk: chunk.write_bytes(chunk.read_bytes()[:-9]),
    "cut to a byte": lambda chunk: chunk.write_bytes(chunk.read_bytes()[:1]),
    "other bytes": lambda chunk: chunk.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "a folder": lambda chunk: (chunk.unlink(), chunk.mkdir()),
    "a broken link": lambda chunk: (chunk.unlink(), chunk.symlink_to("nowhere")),
}


@pytest.mark.parametrize("codec", ["zstd", "blosc", "gzip", None])
@BOTH
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_raises_and_is_never_filled(tmp_path: Path, kind: str, modern: bool, codec: str | None) -> None:
    made = {"zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec, "gzip": zarr.codecs.GzipCodec}
    compressor: Any = None
    if codec is not None:
        compressor = made[codec]() if modern else zarr.registry.get_numcodec({"id": codec})
    path = write_image(tmp_path / "a.zarr", tissue(64, 48)[..., 0], modern=modern, compressors=compressor)
    DAMAGE[kind](path / "0" / ("c/0/1" if modern else "0.1"))
    with open_slide(path) as slide:
        with pytest.raises(ReadError, match=r"a\.zarr.*damaged"):
            slide.read(0, 0, 64, 48)
        np.testing.assert_array_equal(slide.read(32, 0, 32, 48)[..., 0], tissue(64, 48)[:, 32:, 0])


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("part", ["one chunk", "whole"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.7, 0.97])
def test_cut_shards_raise(tmp_path: Path, where: str, part: str, left: float) -> None:
    """A shard whose index lies at its start still promises the chunks that are gone."""
    sharding = zarr.codecs.ShardingCodec(chunk_shape=(16, 16), codecs=[zarr.codecs.BytesCodec()], index_location=where)
    path = write_image(
        tmp_path / "a.zarr", tissue(64, 64)[..., 0], chunks=(64, 64), serializer=sharding, compressors=None
    )
    shard = path / "0" / "c" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[: int(left * shard.stat().st_size)])
    x, y, side = (48, 48, 16) if part == "one chunk" else (0, 0, 64)
    with open_slide(path) as slide, pytest.raises(ReadError, match=r"a\.zarr"):
        slide.read(x, y, side, side)


@pytest.mark.parametrize("stored", [".", "/"])
def test_keys_of_another_form_are_no_holes(tmp_path: Path, stored: str) -> None:
    """The commonest way to an image that is all fill value: the separator that .zarray states is wrong."""
    path = write_image(
        tmp_path / "a.zarr", ramp(64, 48), modern=False, chunk_key_encoding={"name": "v2", "separator": stored}
    )
    document = json.loads((path / "0" / ".zarray").read_text())
    document["dimension_separator"] = {".": "/", "/": "."}[stored]
    (path / "0" / ".zarray").write_text(json.dumps(document))
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with pytest.raises(UnsupportedSlideError, match="dimension_separator"):
            open_slide(place)


def test_an_image_without_chunks_says_so(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", blank(32, 32), fill_value=9, config={"write_empty_chunks": False})
    for chunk in (path / "0").glob("c/*/*"):
        chunk.unlink()
    (path / "0" / "c" / "0").rmdir() if (path / "0" / "c" / "0").exists() else None
    for folder in sorted((path / "0").rglob("*"), reverse=True):
        if folder.is_dir():
            folder.rmdir()
    with open_slide(path) as slide:
        assert "no chunk at all" in slide.description.notes[-1]
        assert (slide.read(0, 0, 32, 32) == 9).all()


def test_an_empty_list_of_filters_is_none(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(32, 32), modern=False)
    document = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps({**document, "filters": []}))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 32, 32)[..., 0], ramp(32, 32))


def test_damaged_array_metadata_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(32, 32))
    (path / "0" / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_slide(path)


@BOTH
def test_text_and_records_are_no_images(tmp_path: Path, modern: bool) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3 if modern else 2)
    group.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="c8")
    write_metadata(tmp_path / "a.zarr", (ome if modern else old)(image_of("yx", [(1, 1)])), modern)
    with pytest.raises(UnsupportedSlideError, match="complex64"):
        open_slide(tmp_path / "a.zarr")
