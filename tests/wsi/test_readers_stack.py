"""Stacks: a plane and a rendering are named, never assumed, and the right px come out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import halved, marked_stack, tissue, write_ngff, zipped

from wsi import ChannelColor, Plane, PlaneError, ReadError, Rendering, open_slide

STACK = marked_stack(2, 3, 2)
GRAY = {channel: Rendering.gray(channel) for channel in range(2)}


def ome_tiff(path: Path) -> Path:
    metadata = {"axes": "TZCYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata=metadata, ome=True)
    return path


def imagej_tiff(path: Path) -> Path:
    tifffile.imwrite(path, STACK, imagej=True, resolution=(5, 5), metadata={"axes": "TZCYX", "unit": "um"})
    return path


def compressed_tiff(path: Path) -> Path:
    metadata = {"axes": "TZCYX", "PhysicalSizeX": 200, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": 200, "PhysicalSizeYUnit": "nm"}
    options = {"tile": (16, 16), "compression": "zstd", "photometric": "minisblack"}
    tifffile.imwrite(path, STACK, metadata=metadata, ome=True, **options)
    return path


WRITERS = {
    "a.ome.tif": ome_tiff,
    "ij.tif": imagej_tiff,
    "z.ome.tif": compressed_tiff,
    "four.zarr": lambda path: write_ngff(path, [STACK, STACK[..., ::2, ::2]], "tzcyx", version="0.4", scale=0.2),
    "five.zarr": lambda path: write_ngff(path, [STACK, STACK[..., ::2, ::2]], "tzcyx", scale=0.2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_plane_and_channel(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    for t in range(2):
        for z in range(3):
            for c in range(2):
                with open_slide(path, plane=Plane(t=t, z=z), rendering=GRAY[c]) as slide:
                    assert slide.mpp_xy == pytest.approx((0.2, 0.2))
                    for level, of in enumerate(slide.levels):
                        pixels = slide.read(0, 0, of.width, of.height, level)
                        assert (pixels == 100 * t + 10 * z + c).all(), (t, z, c, level)
                    assert slide.options["plane"] == f"z={z},t={t}"
                    assert slide.options["rendering"] == f"{c}:gray:0-255"


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_not_named_is_asked_for(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    with pytest.raises(PlaneError, match=r"2 time points, 3 z planes, 2 channels of uint8.*--plane z=0,t=0"):
        open_slide(path)
    with pytest.raises(PlaneError, match=r"--rendering 0:red,1:green"):
        open_slide(path, plane=Plane())
    for plane in (Plane(t=2), Plane(z=3), Plane(t=-1)):
        with pytest.raises(PlaneError, match=r"t goes from 0 to 1, z from 0 to 2"):
            open_slide(path, plane=plane, rendering=GRAY[0])
    with pytest.raises(PlaneError, match="no channel 2"):
        open_slide(path, plane=Plane(), rendering=Rendering.gray(2))


def test_channel_names_are_listed(tmp_path: Path) -> None:
    with pytest.raises(PlaneError, match="0 DAPI, 1 GFP"):
        open_slide(ome_tiff(tmp_path / "a.ome.tif"), plane=Plane())


def test_large_imagej_stack_behind_one_directory(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"}, truncate=True, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 1
    with open_slide(path, plane=Plane(t=1, z=2), rendering=GRAY[1]) as slide:
        assert (slide.read(0, 0, 48, 48) == 121).all()


def test_unnamed_pages_are_depth(tmp_path: Path) -> None:
    planes = STACK[0, :, 0]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for plane in planes:
            tif.write(plane, metadata=None, contiguous=False)
    for z in range(3):
        with open_slide(tmp_path / "a.tif", plane=Plane(z=z)) as slide:
            assert (slide.read(0, 0, 48, 48) == 10 * z).all()


def test_rgb_depth_stack(tmp_path: Path) -> None:
    pictures = np.stack([tissue(60, 40, seed) for seed in range(3)])
    metadata = {"axes": "ZYXS"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pictures, photometric="rgb", metadata=metadata)
    with open_slide(tmp_path / "a.ome.tif", plane=Plane.parse("z=2")) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 60, 40), pictures[2])


def test_several_images_are_listed(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for seed, size in enumerate((50, 48)):
            tif.write(tissue(size, size, seed), photometric="rgb", metadata={"axes": "YXS", "Name": f"field {seed}"})
    with pytest.raises(PlaneError, match=r"series=.*0: field 0.*1: field 1"):
        open_slide(tmp_path / "a.ome.tif")
    with open_slide(tmp_path / "a.ome.tif", series=1) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 48, 48), tissue(48, 48, 1))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(slide)).read(0, 0, 48, 48), tissue(48, 48, 1))
    with pytest.raises(PlaneError, match="not 2"):
        open_slide(tmp_path / "a.ome.tif", series=2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("form", ["folder", "zip", "zip with folder", "marker", "collection"])
def test_ngff_forms(tmp_path: Path, version: str, form: str) -> None:
    picture = tissue(150, 130)
    levels = [np.moveaxis(p, -1, 0) for p in (picture, halved(picture, 2))]
    colors = ["FF0000", "00FF00", "0000FF"]
    place = tmp_path / "top.zarr" / "0" if form == "collection" else tmp_path / "a.zarr"
    if form == "collection":
        import zarr

        zarr.open_group(str(tmp_path / "top.zarr"), mode="w", zarr_format=2 if version == "0.4" else 3)
    path = write_ngff(place, levels, "cyx", version=version, omero=colors)
    if form == "zip":
        path = zipped(path, tmp_path / "a.zarr.zip")
    elif form == "zip with folder":
        path = zipped(path, tmp_path / "b.zip", inside="a.zarr/")
    elif form == "marker":
        path = path / ("zarr.json" if version == "0.5" else ".zattrs")
    elif form == "collection":
        path = tmp_path / "top.zarr"
    with open_slide(path) as slide:
        assert slide.reader == "ngff"
        assert slide.mpp_xy == (0.5, 0.5)
        assert [of.downsample for of in slide.levels] == [1, 2]
        np.testing.assert_array_equal(slide.read(10, 20, 100, 90), picture[20:110, 10:110])
        np.testing.assert_array_equal(slide.read(20, 40, 50, 40, level=1), halved(picture, 2)[20:60, 10:60])
        again = pickle.loads(pickle.dumps(slide))
        np.testing.assert_array_equal(again.read(0, 0, 150, 130), picture)
        again.close()


@pytest.mark.parametrize(
    ("scale", "unit", "mpp"),
    [
        (0.5, "micrometer", 0.5),
        (500, "nanometer", 0.5),
        (0.0005, "millimeter", 0.5),
        (0.5, None, None),
        (0.5, "parsec", None),
    ],
)
def test_ngff_scale_needs_a_unit_of_length(tmp_path: Path, scale: float, unit: str | None, mpp: float | None) -> None:
    path = write_ngff(tmp_path / "a.zarr", [tissue(40, 40)[..., 0]], "yx", scale=scale, unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == (pytest.approx(mpp) if mpp else None)


def test_ngff_damaged_chunk_raises(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", [tissue(128, 128)[..., 0]], "yx")
    chunk = path / "0" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    with open_slide(path) as slide:
        with pytest.raises(ReadError, match=r"a\.zarr"):
            slide.read(0, 0, 20, 20)
        np.testing.assert_array_equal(slide.read(64, 64, 64, 64)[..., 0], tissue(128, 128)[64:, 64:, 0])


VALUES = np.linspace(0, 4000, 64 * 64).reshape(64, 64).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int8, np.float32, np.uint32])
def test_ranges_are_asked_for_and_applied(tmp_path: Path, dtype: type) -> None:
    values = (VALUES // 40 if dtype == np.int8 else VALUES).astype(dtype)
    top = 100 if dtype == np.int8 else 4000
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None)
    low, high = np.percentile(values.astype(float), [0.5, 99.8])
    with open_slide(tmp_path / "a.tif") as slide:  # one channel is gray by itself
        assert Rendering.parse(slide.options["rendering"]) == Rendering.gray(0, low, high)
    with pytest.raises(PlaneError, match="0:gray:0-4095"):
        open_slide(tmp_path / "a.tif", rendering=Rendering.gray())
    with open_slide(tmp_path / "a.tif", rendering=Rendering.gray(0, top / 4, top / 2)) as slide:
        want = np.clip((values.astype(float) - top / 4) / (top / 4), 0, 1) * 255
        np.testing.assert_allclose(slide.read(0, 0, 64, 64)[..., 0], want, atol=0.51)


def test_automatic_range_is_found_once_and_recorded(tmp_path: Path) -> None:
    path = write_ngff(tmp_path / "a.zarr", [VALUES, VALUES[::2, ::2]], "yx")
    low, high = np.percentile(VALUES[::2, ::2], [0.5, 99.8])
    with open_slide(path, rendering=Rendering.parse("0:gray:auto")) as slide:
        assert slide.properties["rendering.auto.0"] == f"{low:g}-{high:g}"
        settled = Rendering.parse(slide.options["rendering"])
        assert settled == Rendering.gray(0, low, high)
        want = np.clip((VALUES - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(slide.read(0, 0, 64, 64)[..., 2], want, atol=0.51)
        again = pickle.loads(pickle.dumps(slide))
        assert again.options == slide.options
        np.testing.assert_array_equal(again.read(0, 0, 64, 64), slide.read(0, 0, 64, 64))
        again.close()


def test_channels_add_up(tmp_path: Path) -> None:
    channels = np.stack([np.full((8, 8), v, np.uint8) for v in (100, 200, 255)])
    path = write_ngff(tmp_path / "a.zarr", [channels], "cyx")
    with pytest.raises(PlaneError, match="--rendering rgb"):
        open_slide(path)
    cases = {
        "rgb": (100, 200, 255),
        "0:red,1:green": (100, 200, 0),
        "0:red:0-100,1:gray:100-300": (255, 128, 128),
        "2:yellow,1:#ff0080": (255, 255, 100),
        "1:808080": (100, 100, 100),
    }
    for text, want in cases.items():
        with open_slide(path, rendering=Rendering.parse(text)) as slide:
            np.testing.assert_allclose(slide.read(0, 0, 1, 1)[0, 0], want, atol=1, err_msg=text)


@pytest.mark.parametrize(
    ("text", "plane"), [("z=3", Plane(0, 3)), ("t=2", Plane(2, 0)), ("z=3,t=1", Plane(1, 3)), ("T=1, Z=0", Plane(1, 0))]
)
def test_plane_text(text: str, plane: Plane) -> None:
    assert Plane.parse(text) == plane
    assert Plane.parse(str(plane)) == plane


@pytest.mark.parametrize("text", ["", "3", "z", "z=", "z=-1", "z=1.5", "c=1", "z=1,z=2", "z=1;t=2"])
def test_plane_text_refused(text: str) -> None:
    with pytest.raises(PlaneError, match="z=3,t=0"):
        Plane.parse(text)


@pytest.mark.parametrize(
    ("text", "rendering"),
    [
        ("gray", Rendering.gray()),
        ("rgb", Rendering.rgb()),
        ("0:red:0-4095,1:green", Rendering((ChannelColor(0, (255, 0, 0), 0, 4095), ChannelColor(1, (0, 255, 0))))),
        ("3", Rendering.gray(3)),
        ("1:white:-1.5-2.5e3", Rendering.gray(1, -1.5, 2500)),
        ("0:#0A0b0C:auto", Rendering((ChannelColor(0, (10, 11, 12), auto=True),))),
        ("0:gray:-128--5", Rendering.gray(0, -128, -5)),
    ],
)
def test_rendering_text(text: str, rendering: Rendering) -> None:
    assert Rendering.parse(text) == rendering
    assert Rendering.parse(str(rendering)) == rendering


@pytest.mark.parametrize(
    "text", ["", "red", "0:puce", "0:red:5", "0:red:9-3", "0:red:a-b", "-1:red", "0:red,", "0:12345"]
)
def test_rendering_text_refused(text: str) -> None:
    with pytest.raises(PlaneError, match="0-4095"):
        Rendering.parse(text)
