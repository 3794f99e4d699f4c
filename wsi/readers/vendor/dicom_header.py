"""The header of a DICOM file, as far as it says which slide the file belongs to and how large its px are."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID

from wsi.errors import UnsupportedSlideError

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class 'VL Whole Slide Microscopy Image Storage' (DICOM PS3.6)."""
DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""
VOLUME = "VOLUME"
"""Third value of ImageType of the images that show tissue."""
_PER_FRAME = 0x52009230
_KEYWORDS = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesDescription",
    "SeriesInstanceUID",
    "ContainerIdentifier",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
    "OpticalPathSequence",
    "DimensionOrganizationType",
    "SharedFunctionalGroupsSequence",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "SOPInstanceUIDOfConcatenationSource",
)
_FINEST = -6  # writers drop trailing zeros: a spacing is taken to be stated to the nm at least
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Instance:
    """The header of one DICOM file.

    Attributes
    ----------
    path : Path
    sop_class, uid, series : str
        UIDs of the kind of object, of this object, and of its series.
    image_type : tuple of str
        ImageType; its third value says what a whole-slide image shows: VOLUME, LABEL, OVERVIEW or THUMBNAIL.
    width, height : int
        The whole image in px (TotalPixelMatrix); 0 where it is not stated.
    tile : (int, int)
        Width and height of a frame in px.
    frames : int
    full : bool
        Every tile has a frame (TILED_FULL).
    spacing : (str, str) or None
        mm between columns and between rows, as written: x and y.
    focal_planes, optical_paths : int
    part, parts : int
        Place in a concatenation, and how many files it has; 1 and 1 where it is none.
    source : str
        UID of the whole that a part belongs to; `uid` where it is none.
    description, container : str
        SeriesDescription and ContainerIdentifier.
    """

    path: Path
    sop_class: str
    uid: str
    series: str
    image_type: tuple[str, ...]
    width: int
    height: int
    tile: tuple[int, int]
    frames: int
    full: bool
    spacing: tuple[str, str] | None
    focal_planes: int
    optical_paths: int
    part: int
    parts: int
    source: str
    description: str
    container: str

    @property
    def flavour(self) -> str:
        """What it shows: VOLUME, LABEL, OVERVIEW, THUMBNAIL, or '' where ImageType does not say."""
        return self.image_type[2] if len(self.image_type) > 2 else ""

    @property
    def kind(self) -> str:
        """Name of the SOP class."""
        return UID(self.sop_class).name or "without a SOP class"


def is_dicom(path: Path) -> bool:
    """True where a file begins as DICOM files do: 'DICM' after 128 bytes (PS3.10)."""
    try:
        with path.open("rb") as stream:
            stream.seek(128)
            return stream.read(4) == b"DICM"
    except OSError:
        return False


def may_be_dicom(path: Path) -> bool:
    """True for names that DICOM files have: *.dcm, *.dicom, and names without a suffix that has letters."""
    suffix = path.suffix.lower()
    return suffix in (".dcm", ".dicom") or not any(map(str.isalpha, suffix))


def read_instance(path: Path) -> Instance:
    """The header of one DICOM file.

    Raises
    ------
    UnsupportedSlideError
        The header cannot be understood.
    OSError
    """
    status = path.stat()
    return _read_instance(path, status.st_mtime_ns, status.st_size)


_TAGS = [tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None]


@lru_cache(maxsize=8192)
def _read_instance(path: Path, mtime_ns: int, size: int) -> Instance:
    try:
        with path.open("rb") as stream, _lenient():
            data = read_partial(stream, lambda tag, vr, length: tag >= _PER_FRAME, specific_tags=_TAGS)
            return _instance(path, data)
    except (OSError, UnsupportedSlideError):
        raise
    except Exception as error:  # pydicom raises errors of many kinds on damaged headers
        raise UnsupportedSlideError(
            f"{path} is a DICOM file whose header cannot be read: {error}. It is damaged or cut off; copy it again."
        ) from error


@contextmanager
def _lenient() -> Iterator[None]:
    """Values that break a rule of their type are read as they are, without a warning each."""
    with _one_at_a_time, warnings.catch_warnings():  # the filters of warnings belong to the whole process
        warnings.simplefilter("ignore")
        yield


def _instance(path: Path, data: Dataset) -> Instance:
    def text(keyword: str) -> str:
        return str(data.get(keyword) or "").strip()

    def number(keyword: str, default: int) -> int:
        value = data.get(keyword)
        return default if value in (None, "") else int(value)

    meta = getattr(data, "file_meta", Dataset())
    kinds = data.get("ImageType") or ()
    uid = text("SOPInstanceUID") or str(meta.get("MediaStorageSOPInstanceUID", ""))
    kind = str(meta.get("MediaStorageSOPClassUID", "")) or text("SOPClassUID")
    if kind == WHOLE_SLIDE and not (uid and kinds and text("SeriesInstanceUID")):
        raise UnsupportedSlideError(
            f"{path} is a DICOM file without ImageType, SOPInstanceUID or SeriesInstanceUID. It is cut off, or a tool "
            "took too much out of it; copy or export it again."
        )
    total = number("InConcatenationTotalNumber", 0)
    part = number("InConcatenationNumber", 1)
    return Instance(
        path=path,
        sop_class=kind,
        uid=uid,
        series=text("SeriesInstanceUID"),
        image_type=(kinds,) if isinstance(kinds, str) else tuple(str(each) for each in kinds),
        width=number("TotalPixelMatrixColumns", 0),
        height=number("TotalPixelMatrixRows", 0),
        tile=(number("Columns", 0), number("Rows", 0)),
        frames=number("NumberOfFrames", 1),
        full=text("DimensionOrganizationType") == "TILED_FULL",
        spacing=_spacing(data),
        focal_planes=number("TotalPixelMatrixFocalPlanes", 1),
        optical_paths=max(number("NumberOfOpticalPaths", 1), len(data.get("OpticalPathSequence") or ()), 1),
        part=part,
        parts=max(total, part),
        source=text("SOPInstanceUIDOfConcatenationSource") or uid,
        description=text("SeriesDescription"),
        container=text("ContainerIdentifier"),
    )


def _spacing(data: Dataset) -> tuple[str, str] | None:
    """PixelSpacing of the shared functional groups: DICOM states rows first, that is y."""
    groups = data.get("SharedFunctionalGroupsSequence") or ()
    measures = (groups[0].get("PixelMeasuresSequence") or ()) if groups else ()
    values = (measures[0].get("PixelSpacing") or ()) if measures else ()
    if isinstance(values, str | float) or len(values) != 2:
        return None
    y, x = (str(getattr(value, "original_string", value)).strip() for value in values)
    return (x, y) if positive(x) and positive(y) else None


def positive(text: str) -> float | None:
    """A positive finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def level_factors(first: Instance, level: Instance) -> tuple[float, float] | None:
    """Px of `first` per px of `level` along x and y, from both PixelSpacings; None where one states none."""
    if level is first:
        return 1.0, 1.0
    if first.spacing is None or level.spacing is None:
        return None
    sides = zip(
        first.spacing, level.spacing, (first.width, first.height), (level.width, level.height), level.tile, strict=True
    )
    x, y = (_factor(*side) for side in sides)
    return x, y


def _factor(fine: str, coarse: str, size0: int, size: int, tile: int) -> float:
    """The factor that two spacings state, as exactly as their digits and the sizes allow.

    Spacings are written with few digits: 0.000499 and 0.001996 state 4 to within 0.1 %, which is 100 px at the far
    end of a slide. A whole factor within that error is taken where the level has its size, cut to a px or padded to
    a tile; else the ratio of the sizes where it lies within the error; else the ratio of the spacings.
    """
    ratio = float(coarse) / float(fine)
    error = ratio * (_half_a_digit(fine) + _half_a_digit(coarse))
    whole = round(ratio)
    if whole and abs(whole - ratio) <= error and size0 / whole - 1 < size < size0 / whole + max(1, tile):
        return float(whole)
    by_size = size0 / size
    return by_size if abs(by_size - ratio) <= error else ratio


def _half_a_digit(text: str) -> float:
    """The relative error of a number as written."""
    try:
        exponent = Decimal(text).as_tuple().exponent
    except InvalidOperation:
        exponent = _FINEST
    last = min(exponent, _FINEST) if isinstance(exponent, int) else _FINEST
    return 0.5 * 10.0**last / float(text)
