"""OME-Zarr: which image of a container is meant is named, never chosen by chance."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ngff_files import image_of, ramp, write_image, write_metadata, write_zarr
from slide_files import zipped

from wsi import PlaneError, UnsupportedSlideError, open_slide
from wsi.errors import SlideError, SlideNotFoundError

BOTH = pytest.mark.parametrize("modern", [True, False], ids=["0.5", "0.4"])


def flat(value: int, side: int = 16) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def group(path: Path, metadata: dict[str, Any], modern: bool) -> Path:
    zarr.open_group(str(path), mode="w", zarr_format=3 if modern else 2)
    write_metadata(path, metadata, modern)
    return path


def bioformats2raw(
    path: Path, modern: bool, *, count: int = 12, series: Any = "left out", names: list[str] | None = None
) -> Path:
    """Images 0 to 11 whose px are ten times their number."""
    group(path, {"bioformats2raw.layout": 3} | ({"version": "0.5"} if modern else {}), modern)
    for number in range(count):
        write_image(path / str(number), flat(10 * number), modern=modern)
    if series != "left out" or names is not None:
        group(path / "OME", {} if series == "left out" else {"series": series}, modern)
    if names is not None:
        images = "".join(f'<Image ID="Image:{i}" Name="{name}"/>' for i, name in enumerate(names))
        text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Note/>{images}</OME>'
        (path / "OME" / "METADATA.ome.xml").write_text(text)
    return path


def plate(path: Path, modern: bool, wells: tuple[str, ...] = ("A/1", "B/03"), fields: int = 2) -> Path:
    """Every field in one value: 100 for its row, 10 for its place among the wells, 1 for the field."""
    version = {"version": "0.5"} if modern else {}
    listed = [{"path": well, "rowIndex": 0, "columnIndex": 0} for well in wells]
    group(path, {**version, "plate": {"rows": [], "columns": [], "wells": listed, "version": "0.4"}}, modern)
    for number, well in enumerate(wells):
        row = well.split("/")[0]
        if not (path / row).exists():
            group(path / row, {}, modern)
        images = [{"path": str(field)} for field in range(fields)]
        group(path / well, {**version, "well": {"images": images}}, modern)
        for field in range(fields):
            write_image(path / well / str(field), flat(10 * number + field), modern=modern)
    return path


def value_of(path: Path | str, series: int | None = None) -> int:
    with open_slide(path, series=series) as slide:
        return int(slide.read(0, 0, 1, 1)[0, 0, 0])


@BOTH
def test_numbers_are_counted_not_spelled(tmp_path: Path, modern: bool) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", modern)
    for place in (path, zipped(path, tmp_path / "a.zip")):
        assert [value_of(place, number) for number in range(12)] == [10 * n for n in range(12)]
        with pytest.raises(PlaneError, match=r"12 images.*series=.*9: made \(16x16\), 10: .*11: "):
            open_slide(place)
        for wrong in (12, -1, 10**30):
            with pytest.raises(PlaneError, match="0 to 11"):
                open_slide(place, series=wrong)


@BOTH
def test_ome_series_and_names_of_the_xml(tmp_path: Path, modern: bool) -> None:
    names = ["label", "macro", "scan A & B".replace("&", "&amp;")]
    path = bioformats2raw(tmp_path / "a.zarr", modern, count=3, series=["2", "0", "1"], names=names)
    assert [value_of(path, number) for number in range(3)] == [20, 0, 10]
    with pytest.raises(PlaneError, match=r"0: label \(16x16\), 1: macro \(16x16\), 2: scan A & B"):
        open_slide(path)
    with open_slide(path, series=2) as slide:
        assert slide.description.image == "scan A & B"
        assert slide.description.images[0] == "label (16x16)"


def test_a_missing_number_keeps_the_others_in_place(tmp_path: Path) -> None:
    import shutil

    path = bioformats2raw(tmp_path / "a.zarr", False, count=5)
    shutil.rmtree(path / "2")
    assert [value_of(path, number) for number in (0, 1, 3, 4)] == [0, 10, 30, 40]
    with pytest.raises(PlaneError, match=r"no image 2.*2: missing"):
        open_slide(path, series=2)


@pytest.mark.parametrize("series", [None, 3, {}, [1, 2], ["../b"], ["/x"], [None], ["0", ".."]])
def test_series_that_cannot_be_right(tmp_path: Path, series: Any) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", False, count=2, series=series)
    if series is None:
        assert value_of(path, 1) == 10
        return
    with pytest.raises(UnsupportedSlideError, match="series"):
        open_slide(path)


def test_damaged_xml_only_loses_the_names(tmp_path: Path) -> None:
    path = bioformats2raw(tmp_path / "a.zarr", False, count=2, names=["a", "b"])
    (path / "OME" / "METADATA.ome.xml").write_text("<OME><Image")
    assert value_of(path, 1) == 10


@BOTH
def test_a_zip_with_several_images_names_them(tmp_path: Path, modern: bool) -> None:
    import zipfile

    for number, name in enumerate(("a10.zarr", "a9.zarr")):
        write_image(tmp_path / name, flat(100 + number), modern=modern)
    target = tmp_path / "two.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("a10.zarr", "a9.zarr"):
            for file in (tmp_path / name).rglob("*"):
                archive.write(file, file.relative_to(tmp_path).as_posix())
    with pytest.raises(PlaneError, match=r"2 images.*0: a9\.zarr.*1: a10\.zarr"):
        open_slide(target)
    assert [value_of(target, number) for number in (0, 1)] == [101, 100]
    assert value_of(target / "a10.zarr") == 100
    with open_slide(target / "a10.zarr") as one, open_slide(target / "a9.zarr") as other:
        assert one.fingerprint != other.fingerprint
        assert pickle.loads(pickle.dumps(one)).read(0, 0, 1, 1)[0, 0, 0] == 100
        assert one.path.name == "a10.zarr"
    with pytest.raises(SlideNotFoundError, match=r"no group b\.zarr.*a9\.zarr"):
        open_slide(target / "b.zarr")


@BOTH
@pytest.mark.parametrize("form", ["folder", "zip", "zip with folder"])
def test_plates_wells_and_fields(tmp_path: Path, modern: bool, form: str) -> None:
    path = plate(tmp_path / "p.zarr", modern)
    if form != "folder":
        path = zipped(path, tmp_path / "p.zip", inside="p.zarr/" if form == "zip with folder" else "")
    with pytest.raises(
        PlaneError, match=r"plate of 4 fields.*A/1/0.*series=0.*0: A/1/0 \(16x16\), 1: A/1/1.*3: B/03/1"
    ) as caught:
        open_slide(path)
    hint = str(caught.value).split("like ")[1].split(", or")[0]
    assert value_of(hint) == 0
    assert [value_of(path, number) for number in range(4)] == [0, 1, 10, 11]
    root = path / "p.zarr" if form == "zip with folder" else path
    assert value_of(root / "B" / "03" / "1") == 11
    assert value_of(root / "B" / "03", 1) == 11
    with pytest.raises(PlaneError, match=r"well of 2 fields.*series=0"):
        open_slide(root / "B" / "03")
    with pytest.raises(SlideError):
        open_slide(root / "C" / "1")
    with open_slide(path, series=1) as one, open_slide(path, series=2) as other:
        assert one.description.image == "A/1/1"
        assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("wells", [None, 3, [], [{}], [{"path": "../x"}], [{"path": 3}], ["A/1"], [{"path": "Z/9"}]])
def test_plates_that_cannot_be_right(tmp_path: Path, wells: Any) -> None:
    path = plate(tmp_path / "p.zarr", False)
    write_metadata(path, {"plate": {"wells": wells}}, False)
    if wells == ["A/1"]:
        assert value_of(path, 1) == 1
        return
    with pytest.raises(UnsupportedSlideError, match=r"p\.zarr"):
        open_slide(path)


def test_several_multiscales_of_one_group_are_asked_about(tmp_path: Path) -> None:
    images = [image_of("yx", [(0.5, 0.5)], name="raw"), image_of("yx", [(2.0, 2.0)], name="deconvolved")]
    images[1]["datasets"][0]["path"] = "d"
    metadata = {"version": "0.5", "multiscales": images}
    path = write_zarr(tmp_path / "a.zarr", {"0": flat(5), "d": flat(6)}, metadata)
    with pytest.raises(PlaneError, match=r"0: raw.*1: .*deconvolved"):
        open_slide(path)
    assert [value_of(path, n) for n in (0, 1)] == [5, 6]


@BOTH
def test_labels_of_an_image_are_no_images(tmp_path: Path, modern: bool) -> None:
    path = write_image(tmp_path / "a.zarr", flat(5), modern=modern)
    group(path / "labels", {"labels": ["cells"]}, modern)
    write_image(path / "labels" / "cells", flat(1), modern=modern)
    assert value_of(path) == 5
    top = group(tmp_path / "top.zarr", {}, modern)
    write_image(top / "x", flat(7), modern=modern)
    group(top / "x" / "labels", {"labels": ["cells"]}, modern)
    write_image(top / "x" / "labels" / "cells", flat(1), modern=modern)
    assert value_of(top) == 7


def test_groups_without_images(tmp_path: Path) -> None:
    path = group(tmp_path / "a.zarr", {}, True)
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with pytest.raises(UnsupportedSlideError, match="multiscales"):
            open_slide(place)
    (tmp_path / "no.zip").write_bytes(zipped(tmp_path / "a.zarr", tmp_path / "b.zip").read_bytes()[:-30])
    with pytest.raises(UnsupportedSlideError, match=r"no\.zip"):
        open_slide(tmp_path / "no.zip")
    write_metadata(path, {"multiscales": []}, True)
    with pytest.raises(UnsupportedSlideError, match="multiscales"):
        open_slide(path)


def test_incomplete_groups_and_folders_of_images_are_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "some" / "a10.zarr", flat(1), modern=False)
    write_image(tmp_path / "some" / "a9.zarr", flat(1))
    with pytest.raises(SlideNotFoundError, match=r"OME-Zarr images lie in it.*a9\.zarr, a10\.zarr"):
        open_slide(tmp_path / "some")
    (path / ".zgroup").unlink()
    for place in (path, zipped(path, tmp_path / "a.zip")):
        with pytest.raises(SlideNotFoundError, match=r"\.zattrs and no \.zgroup"):
            open_slide(place)


def test_an_array_is_no_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ramp(20, 20))
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_slide(path / "0")
