"""Mutated OME-Zarr: named errors or the image that zarr itself reads; never more memory than the file can hold.

`make test` tries some mutations; QWENVL_MUTATIONS=2000 tries as many of each version.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ngff_files import image_of, ramp, write_image, write_zarr
from slide_files import halved, tissue, zipped

from wsi import ReadError, UnsupportedSlideError, open_slide
from wsi.errors import SlideError
from wsi.readers.ngff import limits as ngff_limits
from wsi.readers.ngff.limits import in_words
from wsi.readers.ngff.ngff import NgffSource

COUNT = int(os.environ.get("QWENVL_MUTATIONS", "60"))
MANY = settings(
    max_examples=COUNT,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VERSIONS = pytest.mark.parametrize("modern", [True, False], ids=["0.5", "0.4"])

VALUES: list[Any] = [
    None,
    True,
    False,
    "",
    "text",
    "0",
    "../0",
    "/0",
    "0.6",
    "uint16",
    0,
    1,
    -1,
    3,
    17,
    2**31,
    2**40,
    10**30,
    0.5,
    -0.5,
    1e300,
    float("nan"),
    float("inf"),
    [],
    {},
    [None],
    ["a"],
    [1],
    [1, 1],
    [0, 0, 0],
    [1, 1, 1, 1, 1, 1],
    [2**40] * 3,
    [1, 1e-300, 1],
    {"type": "scale"},
    {"name": "x"},
]
REMOVE = object()
ORIGINALS: dict[Path, dict[str, str]] = {}


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every key and item of a document."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def mutated(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(document)
    holder = made
    for key in place[:-1]:
        holder = holder[key]
    if value is REMOVE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return made


def base(path: Path, modern: bool) -> Path:
    levels = [np.moveaxis(each, -1, 0) for each in (tissue(48, 40), halved(tissue(48, 40), 2))]
    image = image_of("cyx", [(1, 0.5, 0.5), (1, 1, 1)])
    channels = [
        {"label": n, "color": c, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        for n, c in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
    ]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 2.0, 2.0]}]
    extra = {"omero": {"channels": channels}}
    ome = (
        {"version": "0.5", "multiscales": [image], **extra}
        if modern
        else {"multiscales": [{**image, "version": "0.4"}], **extra}
    )
    return write_zarr(path, {"0": levels[0], "1": levels[1]}, ome, modern=modern)


def reference(path: Path, modern: bool) -> tuple[list[str], tuple[float, float] | None] | None:
    """Paths of the datasets and scale of level 0 (x, y) as ome-zarr-models reads them; None where it refuses."""
    from ome_zarr_models.v04.image import ImageAttrs as Attrs04
    from ome_zarr_models.v05.image import ImageAttrs as Attrs05

    try:
        attributes = zarr.open_group(str(path), mode="r", use_consolidated=False).attrs.asdict()
        found = (Attrs05 if modern else Attrs04).model_validate(attributes["ome"] if modern else attributes)
        image = found.multiscales[0]
        names = [axis.name for axis in image.axes]
        steps = {}
        for axis in ("x", "y"):
            steps[axis] = image.datasets[0].coordinateTransformations[0].scale[names.index(axis)]
            for whole in image.coordinateTransformations or ():
                if whole.type == "scale":
                    steps[axis] *= whole.scale[names.index(axis)]
            if image.axes[names.index(axis)].unit != "micrometer":
                return [each.path for each in image.datasets], None
        return [each.path for each in image.datasets], (steps["x"], steps["y"])
    except Exception:
        return None


def check(path: Path, modern: bool) -> str:
    """What became of a file: 'error' with a SlideError that names it, or 'same' as the reference."""
    said = ""
    try:
        source = NgffSource(path)
    except SlideError as error:
        said = str(error)
    if said:
        assert path.name in said
        return "error"
    try:
        level = source.levels[0]
        width, height = min(level.width, 64), min(level.height, 64)
        last = source.layout.channels - 1
        try:
            got = source.read_channel(0, 0, width, height, 0, 0, 0, last)
        except ReadError as error:
            said = str(error)
        if said:
            assert path.name in said
            return "error"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array: Any = zarr.open_group(str(path), mode="r", use_consolidated=False)[source._places[0]]
        where = {"x": slice(0, width), "y": slice(0, height), "c": last}
        wanted = np.asarray(array[tuple(where.get(axis, 0) for axis in source._axes)])
        left = [axis for axis in source._axes if axis in "xy"]
        np.testing.assert_array_equal(got, wanted.transpose([left.index(axis) for axis in "yx"]))
        stated = reference(path, modern)
        if stated is not None:
            assert source._places[0] in stated[0]
            if stated[1] is not None and source._places[0] == stated[0][0]:
                assert source.description.mpp_xy == pytest.approx(stated[1])
        return "same"
    finally:
        source.close()


@pytest.mark.timeout(300 if COUNT < 100 else 0)
@VERSIONS
@given(data=st.data())
@MANY
def test_mutated_metadata(tmp_path_factory: pytest.TempPathFactory, modern: bool, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / f"mutated-{'5' if modern else '4'}.zarr"
    names = ["zarr.json", "0/zarr.json", "1/zarr.json"] if modern else [".zattrs", "0/.zarray", "1/.zarray", ".zgroup"]
    if not path.exists():
        base(path, modern)
        ORIGINALS[path] = {name: (path / name).read_text() for name in names}
    for name, text in ORIGINALS[path].items():
        (path / name).write_text(text)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(names[:1] * 4 + names))
        document = json.loads((path / name).read_text())
        ways = list(places(document))
        if not ways:
            continue
        way = data.draw(st.sampled_from(ways))
        value = data.draw(st.sampled_from([REMOVE, *VALUES]))
        (path / name).write_text(json.dumps(mutated(document, way, value)))
    check(path, modern)


@VERSIONS
def test_every_key_is_mutated_once(tmp_path: Path, modern: bool) -> None:
    """Each key of the image's own metadata: missing, null, of another kind, zero, negative, huge, NaN."""
    path = base(tmp_path / "a.zarr", modern)
    assert check(path, modern) == "same"
    name = "zarr.json" if modern else ".zattrs"
    document = json.loads((path / name).read_text())
    values = (
        [REMOVE, None, "text", 0, -1, 10**30, float("nan"), [], {}] if COUNT >= 2000 else [REMOVE, None, float("nan")]
    )
    ends = {"error": 0, "same": 0}
    for way in places(document):
        for value in values:
            (path / name).write_text(json.dumps(mutated(document, way, value)))
            ends[check(path, modern)] += 1
    assert min(ends.values()) > 10


@VERSIONS
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_chunks_of_terabytes_are_refused_unread(tmp_path: Path, modern: bool, form: str) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(64, 48), modern=modern)
    name = path / "0" / ("zarr.json" if modern else ".zarray")
    document = json.loads(name.read_text())
    if modern:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [10**6, 10**6]
    else:
        document["chunks"] = [10**6, 10**6]
    name.write_text(json.dumps(document))
    place = path if form == "folder" else zipped(path, tmp_path / "a.zip")
    with pytest.raises(UnsupportedSlideError, match=r"1000000 x 1000000 px, 931.3 GiB each; at most 1 GiB"):
        open_slide(place)


BOMBS = ["zstd", "zstd without size", "blosc", "gzip", "zlib", "bz2", "lzma", "lz4"]


def bomb(kind: str, size: int) -> tuple[bytes, str]:
    """A chunk that unpacks to `size` zeros, and the codec that reads it."""
    import bz2
    import gzip
    import lzma
    import zlib

    import numcodecs

    zeros = bytes(size)
    if kind == "zstd without size":
        # Frames of 1 MiB window, each with blocks that repeat one byte 128 KiB long, and no content size.
        block = ((2**17 << 3) | 2).to_bytes(3, "little") + b"\0"
        last = ((2**17 << 3) | 3).to_bytes(3, "little") + b"\0"
        return (0xFD2FB528).to_bytes(4, "little") + b"\0\x50" + block * (size // 2**17 - 1) + last, "zstd"
    made = {
        "zstd": lambda: bytes(numcodecs.Zstd().encode(zeros)),
        "blosc": lambda: bytes(numcodecs.Blosc().encode(zeros)),
        "gzip": lambda: gzip.compress(zeros),
        "zlib": lambda: zlib.compress(zeros),
        "bz2": lambda: bz2.compress(zeros),
        "lzma": lambda: lzma.compress(zeros),
        "lz4": lambda: bytes(numcodecs.LZ4().encode(zeros)),
    }
    return made[kind](), kind


@pytest.mark.parametrize("kind", BOMBS)
@VERSIONS
def test_chunks_that_unpack_to_more_than_they_may_are_refused(tmp_path: Path, kind: str, modern: bool) -> None:
    import tracemalloc

    data, codec = bomb(kind, 2**24)
    compressor = zarr.registry.get_numcodec({"id": codec})
    if modern:
        makers = {"zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec, "gzip": zarr.codecs.GzipCodec}
        if codec not in makers:
            pytest.skip("no codec of Zarr 3")
        compressor = makers[codec]()
    path = write_image(tmp_path / "a.zarr", ramp(64, 48), modern=modern, compressors=compressor)
    (path / "0" / ("c/0/0" if modern else "0.0")).write_bytes(data)
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with open_slide(place) as slide:
            tracemalloc.start()
            try:
                with pytest.raises(ReadError, match=r"it is not decoded|that belong there"):
                    slide.read(0, 0, 64, 48)
                assert tracemalloc.get_traced_memory()[1] < 3 * 2**22  # lzma sets up its dictionary of 8 MiB
            finally:
                tracemalloc.stop()
            np.testing.assert_array_equal(slide.read(32, 16, 32, 32)[..., 0], ramp(64, 48)[16:, 32:])


def test_a_bomb_in_a_shard_is_refused(tmp_path: Path) -> None:
    small = write_image(
        tmp_path / "b.zarr",
        np.ones((64, 64), np.uint8),
        chunks=(16, 16),
        shards=(64, 64),
        config={"write_empty_chunks": True},
    )
    made = write_image(
        tmp_path / "c.zarr", np.ones((2**13, 2**13), np.uint8), chunks=(2**11, 2**11), shards=(2**13, 2**13)
    )
    shutil.copy(
        made / "0" / "c" / "0" / "0", small / "0" / "c" / "0" / "0"
    )  # sixteen chunks of 4 MiB in place of 256 bytes
    for x, side in ((0, 64), (16, 16)):
        with open_slide(small) as slide, pytest.raises(ReadError, match="decoded"):
            slide.read(x, 0, side, side)


@pytest.mark.parametrize("part", ["metadata", "chunk"])
def test_zip_bombs_are_refused(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that unpack beyond the limit: found by the size in the zip's directory, before anything is unpacked."""
    monkeypatch.setattr(ngff_limits, "MAX_METADATA_BYTES", 2**20)
    monkeypatch.setattr(ngff_limits, "MAX_CHUNK_BYTES", 2**20)
    path = write_image(tmp_path / "a.zarr", ramp(64, 48))
    target = tmp_path / "a.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            name = file.relative_to(path).as_posix()
            data = file.read_bytes()
            if (part, name) in (("metadata", "zarr.json"), ("chunk", "0/c/0/0")):
                data += b" " * 2**23
            archive.writestr(name, data)
    if part == "metadata":
        with pytest.raises(ReadError, match=r"a\.zip.*8 MiB; at most 1 MiB"):
            open_slide(target)
        return
    with open_slide(target) as slide:
        with pytest.raises(ReadError, match=r"0/c/0/0 holds 8 MiB"):
            slide.read(0, 0, 16, 16)
        np.testing.assert_array_equal(slide.read(16, 16, 16, 16)[..., 0], ramp(64, 48)[16:32, 16:32])


def test_billions_of_wells_or_images_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(16, 16), modern=False)
    for metadata in ({"plate": {"wells": [{"path": "A/1"}] * 20_000}}, {"well": {"images": [{"path": "0"}] * 20_000}}):
        (path / ".zattrs").write_text(json.dumps(metadata))
        with pytest.raises(UnsupportedSlideError, match=r"a\.zarr"):
            open_slide(path)


@pytest.mark.parametrize(
    ("size", "words"), [(1, "1 bytes"), (1024, "1 KiB"), (2**30, "1 GiB"), (3 * 2**39, "1.5 TiB"), (2**50, "1 PiB")]
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
