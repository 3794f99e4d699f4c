"""What TIFF files that others write state of themselves: image, scale, levels, samples, holes, files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slide_files import halved, tissue

from wsi import Plane, PlaneError, ReadError, Rendering, UnsupportedSlideError, open_slide
from wsi.readers.scale import from_imagej, plausible

IMAGE = tissue(512, 384)
CENTIMETER = {"resolutionunit": "CENTIMETER"}


def per_cm(mpp: float) -> dict[str, Any]:
    return {"resolution": (1e4 / mpp, 1e4 / mpp), **CENTIMETER}


@pytest.mark.parametrize("first", [(128, 100), (64, 48), (512, 40)])
@pytest.mark.parametrize("stated", [None, 4.0, 2.0])
def test_scale_is_the_one_of_the_images_own_directory(
    tmp_path: Path, first: tuple[int, int], stated: float | None
) -> None:
    """An overview before the image states a scale of its own, or the only scale there is."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(tissue(*first), photometric="rgb", metadata=None, **(per_cm(stated) if stated else {}))
        tif.write(IMAGE, photometric="rgb", tile=(128, 128), metadata=None, **per_cm(0.25))
        tif.write(tissue(60, 50), photometric="rgb", metadata=None, **per_cm(9.0))
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.width, slide.height, slide.mpp_source) == (512, 384, "file")
        assert slide.mpp_xy == pytest.approx((0.25, 0.25))
        assert slide.description.mpp_from == "the resolution tags of IFD 1"
        assert any("further images" in note for note in slide.description.notes)


def test_a_scale_of_another_page_is_no_scale(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(tissue(64, 48), photometric="rgb", metadata=None, **per_cm(2.0))
        tif.write(IMAGE, photometric="rgb", tile=(128, 128), metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert (slide.mpp_xy, slide.mpp_source) == (None, "unknown")


def ome_xml(images: list[tuple[str, float, list[tuple[str, int]]]], uuid: str = "") -> str:
    """OME-XML of 64x64 images: name, um per px, and (file, IFD) of each plane along z."""
    text = []
    for number, (name, mpp, planes) in enumerate(images):
        data = "".join(
            f'<TiffData IFD="{ifd}" PlaneCount="1" FirstZ="{z}">'
            + (f'<UUID FileName="{file}">urn:uuid:{file}</UUID>' if file else "")
            + "</TiffData>"
            for z, (file, ifd) in enumerate(planes)
        )
        text.append(
            f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
            f'Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="{len(planes)}" SizeT="1" '
            f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}">'
            f'<Channel ID="Channel:{number}:0" SamplesPerPixel="1"/>{data}</Pixels></Image>'
        )
    at = f' UUID="urn:uuid:{uuid}"' if uuid else ""
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{at}>'
        + "".join(text)
        + "</OME>"
    )


def write_ome(path: Path, pages: list[int], xml: str) -> None:
    with tifffile.TiffWriter(path) as tif:
        for number, value in enumerate(pages):
            tif.write(
                np.full((64, 64), value, np.uint8),
                photometric="minisblack",
                metadata=None,
                description=xml.encode() if number == 0 else None,
            )


def test_an_ome_image_is_found_by_its_planes(tmp_path: Path) -> None:
    """The file of Image 0 is missing, or the images lie in another order than their IFDs."""
    write_ome(
        tmp_path / "B.ome.tif",
        [7],
        ome_xml([("A", 2.0, [("A.ome.tif", 0)]), ("B", 0.25, [("B.ome.tif", 0)])], "B.ome.tif"),
    )
    with open_slide(tmp_path / "B.ome.tif") as slide:
        assert slide.mpp_xy == (0.25, 0.25)
        assert slide.properties["ome.Name"] == "B"
        assert "A.ome.tif" in " ".join(slide.description.notes)
    turned = ome_xml([("A", 2.0, [("", 1)]), ("B", 0.25, [("", 0)])])
    write_ome(tmp_path / "turned.ome.tif", [10, 20], turned)
    with pytest.raises(PlaneError, match="0: A, 64x64 px; 1: B, 64x64 px"):
        open_slide(tmp_path / "turned.ome.tif")
    for series, mpp, value in ((0, 2.0, 20), (1, 0.25, 10)):
        with open_slide(tmp_path / "turned.ome.tif", series=series) as slide:
            assert (slide.mpp, slide.read(0, 0, 1, 1)[0, 0, 0]) == (mpp, value)


def test_a_set_of_files_is_one_image_and_all_files_count(tmp_path: Path) -> None:
    xml = ome_xml([("S", 0.5, [("z0.ome.tif", 0), ("z1.ome.tif", 0)])], "z0.ome.tif")
    write_ome(tmp_path / "z0.ome.tif", [1], xml)
    write_ome(tmp_path / "z1.ome.tif", [2], xml.replace('UUID="urn:uuid:z0', 'UUID="urn:uuid:z1', 1))
    with open_slide(tmp_path / "z0.ome.tif", plane=Plane(z=1)) as slide:
        assert slide.read(0, 0, 1, 1)[0, 0, 0] == 2
        assert sorted(file.name for file in slide.description.files) == ["z0.ome.tif", "z1.ome.tif"]
    (tmp_path / "z1.ome.tif").unlink()
    with pytest.raises(UnsupportedSlideError, match="promises 2 planes"):
        open_slide(tmp_path / "z0.ome.tif", plane=Plane(z=1))


def test_metadata_in_another_file_of_the_set(tmp_path: Path) -> None:
    """BinaryOnly: the file holds planes, the OME-XML lies in a companion file."""
    only = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:p.ome.tif"><BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:c"/></OME>'
    )
    write_ome(tmp_path / "p.ome.tif", [9], only)
    with open_slide(tmp_path / "p.ome.tif") as slide:
        assert slide.mpp_xy is None
        assert "set.companion.ome" in " ".join(slide.description.notes)
    (tmp_path / "set.companion.ome").write_text(ome_xml([("S", 0.5, [("p.ome.tif", 0)])], "c"))
    with open_slide(tmp_path / "p.ome.tif") as slide:
        assert (slide.mpp, slide.read(0, 0, 1, 1)[0, 0, 0]) == (0.5, 9)


@pytest.mark.parametrize(
    ("dots", "unit", "mpp"),
    [
        (300, "inch", None),
        (72, "inch", None),
        (50_800, "inch", None),
        (28.35, "cm", None),
        (118.11, "cm", None),
        (40_000, "cm", 0.25),
        (4, "micron", 0.25),
        (4, "um", 0.25),
        (4, "\\u00B5m", 0.25),
        (4000, "mm", 0.25),
        (50, "mm", 20.0),
        (4, "pixel", None),
        (4, "", None),
        (0.0118110236, "um", None),  # 300 dpi in um
    ],
)
def test_imagej_scale(dots: float, unit: str, mpp: float | None) -> None:
    rational = (round(dots * 10**9), 10**9)
    found = from_imagej(rational, rational, unit)
    assert found == (None if mpp is None else pytest.approx((mpp, mpp)))


def test_what_printing_leaves_behind_is_no_scale_anywhere() -> None:
    assert plausible((25400 / 72, 25400 / 72)) is None
    assert plausible((84.667, 84.667)) is None
    assert plausible((10.0, 10.0)) == (10.0, 10.0)
    assert plausible((30.0, 30.0)) == (30.0, 30.0)
    assert plausible((0.0, 1.0)) is None
    assert plausible(None) is None


def write_levels(path: Path, levels: list[np.ndarray], tile: int, resolutions: list[float] | None = None) -> Path:
    """A pyramid in SubIFDs with levels of any size, each with the resolution given."""
    with tifffile.TiffWriter(path) as tif:
        for number, level in enumerate(levels):
            options = {"subifds": len(levels) - 1} if not number else {"subfiletype": 1}
            options |= per_cm(resolutions[number]) if resolutions else {}
            tif.write(level, photometric="rgb", tile=(tile, tile), metadata=None, compression="zlib", **options)
    return path


def test_a_level_padded_to_whole_tiles_keeps_its_factor(tmp_path: Path) -> None:
    """1000 x 700 px halved to 500 x 350 and padded to 512 x 512: lines stay where they are."""
    base = np.zeros((700, 1000, 3), np.uint8)
    base[:, ::40] = 255
    small = np.zeros((512, 512, 3), np.uint8)
    small[:350, :500] = base[::2, ::2]
    for name, resolutions in (("plain", None), ("stated", [0.25, 0.5]), ("copied", [0.25, 0.25])):
        with open_slide(write_levels(tmp_path / f"{name}.tif", [base, small], 256, resolutions)) as slide:
            assert [of.downsample for of in slide.levels] == [1, 2]
            row = slide.read_scaled(0, 0, 400, 200, (200, 100))[0, :, 0]
            assert np.flatnonzero(row).tolist() == list(range(0, 200, 20))
            assert bool(slide.description.notes) == (name != "stated")


@pytest.mark.parametrize(
    ("sizes", "factors"),
    [
        ([(1000, 800), (500, 800)], [(1, 1), (2, 1)]),
        ([(1000, 800), (1000, 400)], [(1, 1), (1, 2)]),
        (
            [(1000, 701), (500, 350), (250, 175), (125, 87), (62, 43), (31, 21), (15, 10), (7, 5), (3, 2)],
            [(f, f) for f in (1, 2, 4, 8, 16, 32, 64, 128, 256)],
        ),
        ([(1000, 701), (31, 21)], [(1, 1), (32, 32)]),
    ],
)
def test_factors_of_levels(tmp_path: Path, sizes: list, factors: list) -> None:
    levels = [np.zeros((h, w, 3), np.uint8) for w, h in sizes]
    with open_slide(write_levels(tmp_path / "a.tif", levels, 16)) as slide:
        assert [(of.downsample_x, of.downsample_y) for of in slide.levels] == factors


def test_a_level_halved_along_one_side_is_read_with_its_own_factors(tmp_path: Path) -> None:
    base = tissue(256, 192)
    wide = base[::1, ::2]
    with open_slide(write_levels(tmp_path / "a.tif", [base, wide], 64)) as slide:
        np.testing.assert_array_equal(slide.read_scaled(32, 64, 128, 64, (64, 64)), wide[64:128, 16:80])
        np.testing.assert_array_equal(slide.read_scaled(32, 64, 64, 64, (64, 64)), base[64:128, 32:96])


def test_stated_resolutions_of_levels_count(tmp_path: Path) -> None:
    """Level 1 is cut to whole tiles: 256 of 500 px. The resolution tags say a factor of 2."""
    base = tissue(1000, 1000)
    cut = halved(base, 2)[:256, :256]
    with open_slide(write_levels(tmp_path / "a.tif", [base, cut], 256, [0.5, 1.0])) as slide:
        assert [of.downsample for of in slide.levels] == [1, 2]


FIVE = np.stack([np.full((48, 64), value, np.uint8) for value in (10, 60, 110, 160, 210)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("planar", ["separate", "contig"])
def test_samples_without_a_meaning_are_channels(tmp_path: Path, dtype: type, count: int, planar: str) -> None:
    values = FIVE[:count].astype(dtype) * (257 if dtype == np.uint16 else 1)
    stored = values if planar == "separate" else np.moveaxis(values, 0, -1).copy()
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored,
        photometric="minisblack",
        planarconfig=planar,
        extrasamples=["unspecified"] * (count - 1),
        metadata=None,
        tile=(16, 16),
        compression="zlib",
    )
    with pytest.raises(PlaneError, match=f"{count} channels"):
        open_slide(tmp_path / "a.tif")
    top = np.iinfo(dtype).max
    for channel in range(count):
        with open_slide(tmp_path / "a.tif", rendering=Rendering.gray(channel, 0, top)) as slide:
            assert slide.layout.channels == count
            assert np.unique(slide.read(3, 5, 40, 40)).tolist() == [FIVE[channel, 0, 0]]


def test_bioformats_names_of_samples(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        FIVE[:2],
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}},
    )
    with open_slide(tmp_path / "a.ome.tif", rendering=Rendering.gray(1, 0, 255)) as slide:
        assert slide.layout.names == ("DAPI", "CD3")


def over_white(color: np.ndarray, alpha: np.ndarray, premultiplied: bool) -> np.ndarray:
    share = alpha[..., None] / 255
    shown = color.astype(float) if premultiplied else color * share
    return np.clip(shown + 255 * (1 - share), 0, 255)


@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
def test_alpha_is_applied_once_and_only_where_it_is_alpha(tmp_path: Path, kind: str, planar: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    color = tissue(64, 48)
    if kind == "assocalpha":
        color = (color * (alpha[..., None] / 255)).astype(np.uint8)
    rgba = np.dstack([color, alpha])
    stored = np.moveaxis(rgba, -1, 0).copy() if planar == "separate" else rgba
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, extrasamples=[kind], metadata=None
    )
    want = color if kind == "unspecified" else over_white(color, alpha, kind == "assocalpha")
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_allclose(slide.read(0, 0, 64, 48), want, atol=0.51)
        assert slide.layout.channels == (4 if kind == "unspecified" else 3)
    if kind == "unspecified":
        with open_slide(tmp_path / "a.tif", rendering=Rendering.gray(3, 0, 255)) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 64, 48)[..., 0], alpha)


def test_gray_with_alpha_is_shown_over_white(tmp_path: Path) -> None:
    gray = np.full((8, 8), 100, np.uint8)
    alpha = np.repeat(np.array([0, 255], np.uint8), 4)[None].repeat(8, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([gray, alpha]),
        photometric="minisblack",
        extrasamples=["unassalpha"],
        metadata=None,
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.read(0, 0, 8, 8)[0, :, 0].tolist() == [255] * 4 + [100] * 4


def write_bits(path: Path, values: np.ndarray, bits: int, photometric: int) -> None:
    """An uncompressed gray TIFF with 1 to 16 bits per sample, packed by hand, rows padded to bytes."""
    height, width = values.shape
    rows = []
    for row in values:
        text = "".join(f"{int(v):0{bits}b}" for v in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    data = b"".join(rows)
    if bits == 16:
        data = values.astype("<u2").tobytes()
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, height),
        (279, 4, len(data)),
    ]
    body = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + body + b"\0\0\0\0")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_one_to_sixteen_bits(tmp_path: Path, bits: int, photometric: int) -> None:
    full = 2**bits - 1
    values = np.linspace(0, full, 64).round().astype(np.uint16).reshape(8, 8)
    write_bits(tmp_path / "a.tif", values, bits, photometric)
    counted = values if photometric else full - values
    with open_slide(tmp_path / "a.tif", rendering=Rendering.gray(0, 0, full)) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 8, 8)[..., 0], np.round(counted * (255 / full)))
    if bits <= 8:
        with open_slide(tmp_path / "a.tif") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 8, 8)[..., 0], np.round(counted * (255 / full)))


def sparse(path: Path, image: np.ndarray, holes: set[int], **options: Any) -> Path:
    """A tiled TIFF in which some tiles have no data: offset and length zero."""
    corners = [(y, x) for y in range(0, image.shape[0], 64) for x in range(0, image.shape[1], 64)]
    tiles = [
        b"" if number in holes else zlib.compress(image[y : y + 64, x : x + 64].tobytes())
        for number, (y, x) in enumerate(corners)
    ]
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=image.shape,
        dtype=image.dtype,
        tile=(64, 64),
        compression="zlib",
        metadata=None,
        **options,
    )
    return path


NODATA = [(42113, "s", 0, "7", True)]


@pytest.mark.parametrize(
    ("gray", "options", "hole"),
    [
        (False, {"photometric": "rgb"}, 255),
        (True, {"photometric": "minisblack"}, 0),
        (True, {"photometric": "minisblack", "extratags": NODATA}, 7),
        (False, {"photometric": "rgb", "extratags": NODATA}, 7),
    ],
)
def test_holes_read_as_their_value(tmp_path: Path, gray: bool, options: dict, hole: int) -> None:
    image = tissue(192, 128)
    image = image[..., 0] if gray else image
    path = sparse(tmp_path / "a.tif", image, {0, 4}, **per_cm(0.25), **options)
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, slide.description.hole) == ("tiff", pytest.approx(0.25), hole)
        got = slide.read(0, 0, 192, 128)
        assert np.unique(got[:64, :64]).tolist() == [hole]
        want = np.repeat(image[..., None], 3, 2) if gray else image
        np.testing.assert_array_equal(got[:64, 64:], want[:64, 64:])
        assert any("hold no data" in note for note in slide.description.notes)


def test_a_hole_in_an_ome_pyramid_costs_neither_scale_nor_levels(tmp_path: Path) -> None:
    image = tissue(192, 128)
    tiles = [
        b"" if (x, y) == (0, 0) else zlib.compress(image[y : y + 64, x : x + 64].tobytes())
        for y in (0, 64)
        for x in (0, 64, 128)
    ]
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        tif.write(iter(tiles), shape=image.shape, dtype=np.uint8, subifds=1, metadata=metadata, **options)
        tif.write(halved(image, 2), subfiletype=1, metadata=None, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.reader, slide.mpp_xy) == ("tiff", (0.25, 0.25))
        assert [of.downsample for of in slide.levels] == [1, 2]
        assert slide.read(0, 0, 64, 64).min() == 255
        np.testing.assert_array_equal(slide.read(64, 0, 128, 128), image[:, 64:])


def patch_tag(path: Path, code: int, values: list[int]) -> None:
    """Overwrite the values of a tag in place."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags[code].overwrite(values)


def test_lengths_of_zero_with_a_place_are_data_or_damage(tmp_path: Path) -> None:
    """libtiff and Pillow read plain strips without lengths; a compressed one without length is damaged."""
    tifffile.imwrite(tmp_path / "plain.tif", IMAGE, photometric="rgb", rowsperstrip=64, metadata=None)
    patch_tag(tmp_path / "plain.tif", 279, [0] * 6)
    with open_slide(tmp_path / "plain.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 512, 384), IMAGE)
        assert slide.description.hole is None
    tifffile.imwrite(tmp_path / "lzw.tif", IMAGE, photometric="rgb", rowsperstrip=64, metadata=None, compression="lzw")
    with tifffile.TiffFile(tmp_path / "lzw.tif") as tif:
        counts = list(tif.pages.first.databytecounts)
    patch_tag(tmp_path / "lzw.tif", 279, [*counts[:3], 0, *counts[4:]])
    with open_slide(tmp_path / "lzw.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 512, 192), IMAGE[:192])
        with pytest.raises(ReadError, match="length 0"):
            slide.read(0, 180, 512, 40)


@pytest.mark.parametrize("options", [{"rowsperstrip": 64}, {"tile": (128, 128)}])
@pytest.mark.parametrize("which", [0, 2, -1])
def test_one_plain_piece_without_a_length_is_read(tmp_path: Path, options: dict, which: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", metadata=None, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        counts = list(tif.pages.first.databytecounts)
    counts[which] = 0
    patch_tag(tmp_path / "a.tif", 325 if "tile" in options else 279, counts)
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 512, 384), IMAGE)


def test_a_hole_in_one_colour_is_damage(tmp_path: Path) -> None:
    """White red beside real green and blue would be a colour that looks like data."""
    planes = np.moveaxis(IMAGE, -1, 0)
    tiles = [
        zlib.compress(np.ascontiguousarray(plane[y : y + 128, x : x + 128]).tobytes())
        for plane in planes
        for y in range(0, 384, 128)
        for x in range(0, 512, 128)
    ]
    options = {"planarconfig": "separate", "tile": (128, 128), "compression": "zlib", "metadata": None}
    for name, photometric in (("rgb", "rgb"), ("channels", "minisblack")):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            iter([b"", *tiles[1:]]),
            shape=planes.shape,
            dtype=np.uint8,
            photometric=photometric,
            **options,
        )
    with open_slide(tmp_path / "rgb.tif") as slide:
        np.testing.assert_array_equal(slide.read(128, 0, 384, 384), IMAGE[:, 128:])
        with pytest.raises(ReadError, match="some of its colours only"):
            slide.read(100, 100, 40, 40)
    with open_slide(tmp_path / "channels.tif", rendering=Rendering.gray(0, 0, 255)) as slide:
        assert slide.read(0, 0, 128, 128).max() == 0  # channels are apart: a hole in one is its own


def test_a_level_with_other_planes_is_no_level(tmp_path: Path) -> None:
    stack = np.stack([np.full((64, 64), z * 10, np.uint8) for z in range(4)])
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(stack, metadata={"axes": "ZYX"}, photometric="minisblack", tile=(32, 32), subifds=1)
        tif.write(stack[:, ::2, ::2], metadata=None, photometric="minisblack", tile=(32, 32), subfiletype=1)
    with open_slide(tmp_path / "a.ome.tif", plane=Plane(z=3)) as slide:
        assert slide.read_scaled(0, 0, 64, 64, (32, 32))[0, 0, 0] == 30


def test_frames_of_an_animation_are_a_stack(tmp_path: Path) -> None:
    from PIL import Image

    frames = [Image.new("L", (20, 10), value) for value in (10, 120, 230)]
    for name in ("a.gif", "a.png", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with pytest.raises(PlaneError, match="3 z planes"):
            open_slide(tmp_path / name)
        with open_slide(tmp_path / name, plane=Plane(z=2)) as slide:
            assert slide.read(0, 0, 20, 10).mean() == pytest.approx(230, abs=1)


def test_a_strip_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", rowsperstrip=384, compression="zlib", metadata=None)
    for code, value in ((256, 60_000), (257, 60_000), (278, 60_000)):
        with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
            tif.pages.first.tags[code].overwrite(value)
    with pytest.raises(UnsupportedSlideError, match=r"10\.1 GiB when decoded"):
        open_slide(tmp_path / "a.tif")


def test_a_file_of_holes_alone_is_what_an_interrupted_writer_leaves(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match="holds no pixels: all 6 tiles"):
        open_slide(sparse(tmp_path / "a.tif", tissue(192, 128), set(range(6)), photometric="rgb"))


@pytest.mark.parametrize(("photometric", "name"), [("separated", "SEPARATED"), ("cielab", "CIELAB")])
def test_other_colours_are_refused_by_name(tmp_path: Path, photometric: str, name: str) -> None:
    samples = 4 if photometric == "separated" else 3
    image = np.zeros((16, 16, samples), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric, metadata=None)
    with pytest.raises(UnsupportedSlideError, match=name):
        open_slide(tmp_path / "a.tif")
