"""DICOM files that scanners and other libraries wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from wsi import open_slide
from wsi.errors import PlaneError, SlideNotFoundError, UnsupportedSlideError

pytestmark = pytest.mark.real
UNREADABLE = {
    "highdicom_sm_image_grayscale.dcm": "BitsAllocated value 16",
    "highdicom_sm_image_jpegls.dcm": "transfer syntax",
    "highdicom_sm_image_jpegls_nobot.dcm": "transfer syntax",
}


def test_scale_is_that_of_pydicom(real_data: Path) -> None:
    for path in sorted((real_data / "slides" / "dicom").glob("*.dcm")):
        if path.name in UNREADABLE:
            with pytest.raises(UnsupportedSlideError, match=UNREADABLE[path.name]):
                open_slide(path)
            continue
        data = dcmread(path, stop_before_pixels=True)
        rows, columns = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        with open_slide(path) as slide:
            assert slide.mpp_xy == pytest.approx((1000 * columns, 1000 * rows), rel=1e-9), path.name
            assert (slide.width, slide.height) == (data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows)
            assert slide.description.files == (path,)


def test_folders_say_what_they_hold(real_data: Path) -> None:
    folder = real_data / "slides" / "dicom"
    with pytest.raises(PlaneError, match="holds 10 slides"):
        open_slide(folder)
    with pytest.raises(SlideNotFoundError, match=r"ORIGINAL\\PRIMARY\\LABEL"):
        open_slide(folder / "label_only")
    with pytest.raises(SlideNotFoundError, match="Microscopy Bulk Simple Annotations Storage"):
        open_slide(folder / "not_whole_slide")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("label_only/google_test_wsi2.dcm", "only LABEL"),
        ("not_whole_slide/google_test_slide_coordinates.dcm", "VL Slide-Coordinates Microscopic Image Storage"),
        ("not_whole_slide/highdicom_seg_image_sm_dots.dcm", "'Segmentation Storage'"),
        ("not_whole_slide/libvips_dicom_test_image.dcm", r"'Nuclear Medicine Image Storage' .*TOMO\\EMISSION"),
        ("not_whole_slide/wsi_annotation.dcm", "Annotations Storage"),
    ],
)
def test_what_is_no_slide_says_what_it_is(name: str, words: str, real_data: Path) -> None:
    with pytest.raises(UnsupportedSlideError, match=words):
        open_slide(real_data / "slides" / "dicom" / name)
