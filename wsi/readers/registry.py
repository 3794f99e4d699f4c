"""Which reader opens a file: chosen by what is in it, not by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from wsi.errors import SlideError, SlideNotFoundError, UnsupportedSlideError
from wsi.files.address import RemotePath, as_path
from wsi.readers.description import Description
from wsi.readers.ngff.container import ngff_folders, split_zip
from wsi.readers.ngff.ngff import MARKERS, NgffSource, is_ngff_folder
from wsi.readers.opened import OpenedSlide, OpenOptions
from wsi.readers.plain import PlainSource
from wsi.readers.source import PixelSource
from wsi.readers.stack import Plane, Rendering
from wsi.readers.tiff.tiff import TiffSource
from wsi.readers.vendor.dicom import DicomSource
from wsi.readers.vendor.dicom_header import is_dicom
from wsi.readers.vendor.openslide import OpenSlideSource, stated_bounds, vendor_of


def _by_openslide(path: Path, series: int | None) -> PixelSource:
    return (DicomSource if path.is_dir() or is_dicom(path) else OpenSlideSource)(path, series)


READERS: dict[str, Callable[[Path, int | None], PixelSource]] = {
    "tiff": TiffSource,
    "openslide": _by_openslide,
    "ngff": NgffSource,
    "plain": PlainSource,
}
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZIP_HEAD = b"PK\x03\x04"
_OPENSLIDE_TIFF = (None, "aperio", "generic-tiff")


def open_slide(
    path: str | PathLike[str],
    *,
    mpp: float | tuple[float, float] | None = None,
    plane: Plane | None = None,
    rendering: Rendering | None = None,
    series: int | None = None,
    reader: str | None = None,
    colour: str = "stored",
) -> OpenedSlide:
    """Open a slide, a picture or one plane of a stack.

    Parameters
    ----------
    path : path
        SVS, NDPI, MRXS, SCN, BIF, DICOM (a file of a slide, or a folder of them), TIFF, OME-TIFF, OME-Zarr
        (folder, zip, a group inside, or an http(s) or s3 address), or an ordinary picture.
    mpp : float or (float, float), optional
        Micrometres per level-0 px (x and y), in place of what the file states.
    plane : Plane, optional
        Which plane of a stack; needed where there are several.
    rendering : Rendering, optional
        How channels become red, green and blue; needed where the file is not RGB or 8-bit gray.
    series : int, optional
        Which image of a file, or DICOM slide of a folder, that holds several.
    reader : str, optional
        'tiff', 'openslide', 'ngff' or 'plain', in place of the choice by content.
    colour : str
        'stored', or 'srgb' to convert by the file's ICC profile (relative colorimetric). RGB without a profile
        is taken as sRGB, with a note in `description.notes`.

    Returns
    -------
    OpenedSlide

    Raises
    ------
    SlideNotFoundError
        No such file, or no slide in the folder.
    UnsupportedSlideError
        Not an image that any reader knows, or cut off.
    PlaneError
        A plane, rendering or series has to be named; the message lists what there is.
    ColourError
        Colours cannot be converted: the image is rendered from channels, or its profile is not usable.
    """
    sides = (float(mpp), float(mpp)) if isinstance(mpp, (int, float)) else mpp
    return _open(as_path(path), OpenOptions(sides, plane, rendering, series, reader, colour))


def reopen(path: str, options: OpenOptions) -> OpenedSlide:
    """Open a slide again as it was open before; what pickle calls."""
    return _open(as_path(path), options)


def source_of(path: Path, options: OpenOptions) -> PixelSource:
    """The reader that takes the file, with nothing settled yet. Errors are those of `open_slide`."""
    if options.reader is not None and options.reader not in READERS:
        raise UnsupportedSlideError(f"No reader is called {options.reader!r}; known are {', '.join(READERS)}.")
    try:
        return _source(_resolve(path), options)
    except SlideError:
        raise
    except OSError as error:
        raise UnsupportedSlideError(f"{path} cannot be read: {error}.") from error


def _open(path: Path, options: OpenOptions) -> OpenedSlide:
    source = source_of(path, options)
    if isinstance(source, DicomSource):  # its path is a file of the one slide that was chosen
        options = replace(options, series=None)
    try:
        return OpenedSlide(source, options, reopen)
    except SlideError:
        source.close()
        raise


def _resolve(path: Path) -> Path:
    """The file or folder to open: a Zarr marker stands for its folder."""
    if isinstance(path, RemotePath):
        return path.parent if path.name in MARKERS else path
    if not path.exists() and split_zip(path)[0] is not None:
        return path
    if not path.exists():
        raise SlideNotFoundError(f"{path} does not exist. Check the path and that its drive is mounted.")
    return path.parent if path.is_file() and path.name in MARKERS else path


def _source(path: Path, options: OpenOptions) -> PixelSource:
    if options.reader is not None:
        source = READERS[options.reader](path, options.series)
        return _with_bounds(source) if isinstance(source, TiffSource) else source
    if path.is_dir():
        if is_ngff_folder(path):
            return NgffSource(path, options.series)
        if inside := ngff_folders(path):
            raise SlideNotFoundError(
                f"{path} is a folder and no slide; OME-Zarr images lie in it. Open one of them: {inside}."
            )
        return DicomSource(path, options.series)
    if isinstance(path, RemotePath) or not path.is_file():
        return NgffSource(path, options.series)
    with path.open("rb") as stream:
        head = stream.read(4)
    if not head:
        raise UnsupportedSlideError(f"{path} is empty. Copy it again from its source.")
    if head == _ZIP_HEAD:
        return NgffSource(path, options.series)
    vendor = vendor_of(path)
    if head in _TIFF_HEADS and vendor in _OPENSLIDE_TIFF:
        try:
            return _tiff(path, vendor, options)
        except UnsupportedSlideError:
            if not is_dicom(path):  # the preamble of a DICOM file may look like TIFF
                raise
    if vendor is not None or is_dicom(path):
        return _by_openslide(path, options.series)
    return PlainSource(path, options.series)


def _tiff(path: Path, vendor: str | None, options: OpenOptions) -> PixelSource:
    """Direct decoding where it is right; OpenSlide for what only it does right, if it sees the same image."""
    source = TiffSource(path, options.series)
    reason = source.why_not(vendor)
    if reason is None:
        return _with_bounds(source)
    stated = source.description
    source.close()
    if vendor is None:
        raise UnsupportedSlideError(f"{path} holds {reason} in a form that OpenSlide does not know.")
    slide = OpenSlideSource(path, options.series)
    seen = slide.description
    if _image_of(seen) != _image_of(stated):
        slide.close()
        raise UnsupportedSlideError(
            f"{path} holds {reason}, which only OpenSlide reads, and OpenSlide sees another image in it: "
            f"{_image_of(seen)} instead of {_image_of(stated)}."
        )
    slide.description = replace(
        stated,
        properties={**stated.properties, **seen.properties, "reader.reason": reason},
        qupath_bounds=seen.qupath_bounds,
        hole=None,
    )
    return slide


def _with_bounds(source: TiffSource) -> TiffSource:
    """The source with the bounds that OpenSlide 4.0.1 states of tiled TIFFs without their outer tiles.

    QuPath takes OME-TIFF from Bio-Formats, which shows all of it.
    """
    seen = source.description
    if seen.hole is not None and seen.orientation == 1 and not source.is_ome:
        size = seen.levels[0].width, seen.levels[0].height
        source.description = replace(seen, qupath_bounds=stated_bounds(source.path, size))
    return source


def _image_of(description: Description) -> str:
    """What two readers must agree on before one may read for the other."""
    sizes = ", ".join(f"{level.width}x{level.height}" for level in description.levels)
    scale = description.mpp_xy and "{:.4g} x {:.4g} um/px".format(*description.mpp_xy)
    return f"{description.layout} in levels of {sizes} px at {scale or 'unknown scale'}"
