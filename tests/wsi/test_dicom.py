"""DICOM: a slide is a series, a folder of several is listed, and what is no slide says what it is."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import pixels, uid, write_instance, write_slide
from hypothesis import given
from hypothesis import strategies as st

from wsi import open_slide
from wsi.errors import PlaneError, ReadError, SlideNotFoundError, UnsupportedSlideError
from wsi.readers.vendor.dicom import slide_of, slides_in
from wsi.readers.vendor.dicom_header import level_factors, read_instance

RESAMPLED = ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")


def two_slides(folder: Path) -> Path:
    write_slide(folder, "a")
    write_slide(folder, "b", seed=1)
    return folder


def test_a_folder_of_two_slides_lists_them_and_one_is_chosen(tmp_path: Path) -> None:
    folder = two_slides(tmp_path / "two")
    with pytest.raises(PlaneError) as raised:
        open_slide(folder)
    for words in (
        "2 slides",
        "series=0",
        "--series 0",
        "0: series 'Series a'",
        "1: series 'Series b'",
        "a_level0.dcm, a_level1.dcm",
        "160x96 px",
        "container 'S1'",
    ):
        assert words in str(raised.value)
    for series, seed in ((0, 0), (1, 1)):
        with open_slide(folder, series=series) as slide:
            assert np.array_equal(slide.read(0, 0, 160, 96), pixels(160, 96, seed))
            again = pickle.loads(pickle.dumps(slide))
            assert again.fingerprint == slide.fingerprint
    with pytest.raises(PlaneError, match="slides 0 to 1, not 2"):
        open_slide(folder, series=2)


@pytest.mark.parametrize("name", ["a", "b"])
def test_any_file_of_a_slide_opens_it_and_nothing_of_another(name: str, tmp_path: Path) -> None:
    folder = two_slides(tmp_path)
    files = [folder / f"{name}_level{level}.dcm" for level in (0, 1)]
    opened = [open_slide(file) for file in files]
    for slide, file in zip(opened, files, strict=True):
        assert slide.path == file
        assert slide.description.files == tuple(files)
        assert [(level.width, level.height) for level in slide.levels] == [(160, 96), (80, 48)]
        assert slide.mpp == pytest.approx(0.5)
    assert opened[0].fingerprint == opened[1].fingerprint
    with pytest.raises(PlaneError, match="leave series=1 out"):
        open_slide(files[0], series=1)


def one(folder: Path) -> Path:
    write_slide(folder)
    return folder


def without_suffix(folder: Path) -> Path:
    for number, file in enumerate(write_slide(folder)):
        file.rename(folder / (f"IM00000{number}" if number else "1.2.840.4"))
    return folder


def dicomdir(folder: Path) -> Path:
    write_slide(folder / "images" / "deep")
    index = write_instance(folder / "index.dcm", pixels(32, 32))
    from pydicom import dcmread

    data = dcmread(index)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.1.3.10"
    data.save_as(folder / "DICOMDIR")
    index.unlink()
    return folder / "DICOMDIR"


def with_label_and_other_kinds(folder: Path) -> Path:
    write_slide(folder)
    write_instance(folder / "label.dcm", pixels(32, 32), series="a", flavour=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))
    write_instance(folder / "alone.dcm", pixels(32, 32), series="z", flavour=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))
    return folder


def copied_inside(folder: Path) -> Path:
    shutil.copy(write_slide(folder)[0], folder / "z_copy.dcm")
    return folder


def copied_below(folder: Path) -> Path:
    write_slide(folder)
    (folder / "backup").mkdir()
    shutil.copy(folder / "a_level0.dcm", folder / "backup")
    return folder


def linked(folder: Path) -> Path:
    (folder / "links").mkdir(parents=True)
    target = write_slide(folder / "store")[1]
    (folder / "links" / "slide.dcm").symlink_to(target)
    return folder / "links" / "slide.dcm"


def in_parts(folder: Path) -> Path:
    parts = {"SOPInstanceUIDOfConcatenationSource": uid("whole"), "ConcatenationUID": uid("parts")}
    for number, keep in ((1, slice(0, 8)), (2, slice(8, None))):
        write_instance(
            folder / f"part{number}.dcm",
            pixels(160, 96),
            keep=keep,
            InConcatenationNumber=number,
            InConcatenationTotalNumber=2,
            ConcatenationFrameOffsetNumber=0 if number == 1 else 8,
            **parts,
        )
    return folder


@pytest.mark.parametrize(
    "make", [one, without_suffix, dicomdir, with_label_and_other_kinds, copied_inside, copied_below, linked, in_parts]
)
def test_what_is_one_slide(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with open_slide(make(tmp_path / "slide")) as slide:
        assert np.array_equal(slide.read(0, 0, 160, 96), pixels(160, 96))
        assert len(slide.levels) == (1 if make is in_parts else 2)
        assert slide.description.mpp_from == "PixelSpacing of the DICOM image of level 0"


def two_focal_planes(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(160, 96), TotalPixelMatrixFocalPlanes=2)


def two_optical_paths(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(160, 96), NumberOfOpticalPaths=2)


def two_of_one_size(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(160, 96))
    write_instance(folder / "y.dcm", pixels(160, 96, 1))


def contradicting_copies(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(160, 96), SOPInstanceUID=uid("same"))
    write_instance(folder / "y.dcm", pixels(160, 96, 1), SOPInstanceUID=uid("same"))


def a_part_missing(folder: Path) -> None:
    (in_parts(folder) / "part2.dcm").unlink()


def spread_over_folders(folder: Path) -> None:
    _, second = write_slide(folder / "one")
    (folder / "two").mkdir()
    second.rename(folder / "two" / second.name)


def nothing_but_a_label(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(32, 32), flavour=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))


def no_size(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(160, 96), TotalPixelMatrixColumns=None)


def sixteen_bits(folder: Path) -> None:
    write_instance(folder / "x.dcm", pixels(32, 32), BitsAllocated=16, BitsStored=12, HighBit=11)


def two_labels(folder: Path) -> None:
    write_slide(folder, "x")
    label = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")
    for number in (1, 2):
        write_instance(folder / f"x_label{number}.dcm", pixels(32, 32), series="x", flavour=label)


def a_tomography_whose_preamble_looks_like_tiff(folder: Path) -> None:
    from pydicom import dcmread

    path = write_instance(folder / "x.dcm", pixels(32, 32))
    data = dcmread(path)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.preamble = b"II*\0" + b"\xff" * 124
    data.save_as(path)


def a_segmentation(folder: Path) -> None:
    from pydicom import dcmread

    path = write_instance(folder / "x.dcm", pixels(32, 32), flavour=("DERIVED", "PRIMARY"))
    data = dcmread(path)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    data.save_as(path)


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (two_focal_planes, "states 2 focal planes"),
        (two_optical_paths, "2 optical paths"),
        (two_of_one_size, "two images of 160x96 px"),
        (contradicting_copies, "content differs"),
        (a_part_missing, "part 1 of 2 .* what is missing beside it: part 2"),
        (nothing_but_a_label, "LABEL"),
        (no_size, "size is missing"),
        (two_labels, "two LABEL images"),
        (a_tomography_whose_preamble_looks_like_tiff, "'CT Image Storage'"),
        (sixteen_bits, "BitsAllocated value 16 .*8-bit RGB"),
        (a_segmentation, r"'Segmentation Storage' with ImageType DERIVED\\PRIMARY"),
    ],
)
def test_what_cannot_be_read_says_why(make: Callable[[Path], None], words: str, by_file: bool, tmp_path: Path) -> None:
    make(tmp_path)
    path = next(tmp_path.glob("*.dcm")) if by_file else tmp_path
    with pytest.raises((UnsupportedSlideError, SlideNotFoundError), match=words):
        open_slide(path)


def test_a_series_spread_over_folders_is_refused_as_a_folder(tmp_path: Path) -> None:
    spread_over_folders(tmp_path)
    with pytest.raises(UnsupportedSlideError, match="in several folders"):
        open_slide(tmp_path)
    write_slide(tmp_path / "three", "b", seed=1)
    with pytest.raises(PlaneError, match="holds 3 slides"):
        open_slide(tmp_path)
    with pytest.raises(UnsupportedSlideError, match="in several folders"):
        open_slide(tmp_path, series=0)
    assert open_slide(tmp_path, series=1).path.name == "b_level0.dcm"


def test_one_bad_slide_does_not_hide_another(tmp_path: Path) -> None:
    two_focal_planes(tmp_path)
    write_slide(tmp_path, "good")
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "x.dcm").read_bytes()[:300])
    (tmp_path / "empty.dcm").write_bytes(b"")
    with open_slide(tmp_path / "good_level0.dcm") as slide:
        assert any("cut.dcm, empty.dcm" in note for note in slide.description.notes)
    assert len(slides_in(tmp_path)) == 2


def test_frames_that_are_not_there_fail_and_are_noted(tmp_path: Path) -> None:
    path = write_instance(tmp_path / "x.dcm", pixels(160, 96), keep=slice(0, 10))
    with open_slide(path) as slide:
        assert any("states 10 frames" in note and "need 15" in note for note in slide.description.notes)
        assert np.array_equal(slide.read(0, 0, 160, 64), pixels(160, 96)[:64])
        with pytest.raises(ReadError):
            slide.read(0, 64, 32, 32)


def test_sparse_tiles_are_background(tmp_path: Path) -> None:
    path = write_instance(tmp_path / "x.dcm", pixels(64, 64), sparse=((1, 0), (0, 1)))
    with open_slide(path) as slide:
        read = slide.read(0, 0, 64, 64)
    assert np.array_equal(read[:32, 32:], pixels(64, 64)[:32, 32:])
    assert (read[:32, :32] == 255).all()
    assert (read[32:, 32:] == 255).all()


def test_scale_is_the_one_stated_along_each_axis(tmp_path: Path) -> None:
    path = write_instance(tmp_path / "x.dcm", pixels(64, 64), spacing=("0.0004", "0.00025"))  # rows, columns
    with open_slide(path) as slide:
        assert slide.mpp_xy == pytest.approx((0.25, 0.4))
    with open_slide(write_instance(tmp_path / "no" / "x.dcm", pixels(64, 64), spacing=None)) as slide:
        assert (slide.mpp, slide.mpp_source, slide.description.mpp_from) == (None, "unknown", "")


def test_a_level_padded_to_whole_tiles_keeps_the_factor_stated(tmp_path: Path) -> None:
    write_instance(tmp_path / "x.dcm", pixels(160, 96))
    write_instance(tmp_path / "y.dcm", pixels(96, 64), spacing=("0.001", "0.001"), flavour=RESAMPLED)
    with open_slide(tmp_path) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert np.array_equal(slide.read(0, 0, 96, 64, level=1), pixels(96, 64))


def test_a_level_that_is_resampled_and_alone_is_noted(tmp_path: Path) -> None:
    write_slide(tmp_path)[0].unlink()
    with open_slide(tmp_path) as slide:
        assert slide.mpp == pytest.approx(1.0)
        assert any("resampled" in note for note in slide.description.notes)


@given(
    factor=st.sampled_from([2, 3, 4, 8, 16, 32]),
    size=st.integers(5_000, 200_000),
    um=st.floats(0.1, 1.0),
    digits=st.integers(6, 10),
)
def test_factors_survive_the_rounding_of_spacings(factor: int, size: int, um: float, digits: int) -> None:
    first = _Stated(size, f"{um / 1000:.{digits}f}")
    level = _Stated(size // factor, f"{um * factor / 1000:.{digits}f}")
    assert level_factors(first, level) == (factor, factor)  # type: ignore[arg-type]


class _Stated:
    """What `level_factors` asks of an instance."""

    tile = (512, 512)

    def __init__(self, size: int, spacing: str) -> None:
        self.width = self.height = size
        self.spacing = (spacing, spacing)


def test_fingerprint_is_that_of_all_files_and_of_no_name(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_slide(folder)
    write_instance(folder / "label.dcm", pixels(32, 32), series="a", flavour=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))

    def fingerprint() -> str:
        with open_slide(folder) as slide:
            return slide.fingerprint

    before = fingerprint()
    for file in sorted(folder.iterdir()):
        kept = file.read_bytes()
        changed = bytearray(kept)
        changed[-100] ^= 1
        file.write_bytes(changed)
        assert fingerprint() != before, file.name
        file.write_bytes(kept)
        assert fingerprint() == before
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        file.rename(folder / f"{number}.dcm")
    assert fingerprint() == before


def test_headers_are_read_again_after_a_change(tmp_path: Path) -> None:
    path = write_instance(tmp_path / "x.dcm", pixels(64, 64))
    assert read_instance(path).width == 64
    write_instance(path, pixels(96, 64))
    os.utime(path, ns=(1, 1))
    assert read_instance(path).width == 96
    assert slide_of(path).sizes == [(96, 64)]
