"""DICOM whole-slide instances made for tests, as small as OpenSlide accepts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

WSM = "1.2.840.10008.5.1.4.1.1.77.1.6"


def uid(*words: object) -> str:
    """A UID that is the same for the same words."""
    return str(generate_uid(entropy_srcs=[repr(words)]))


def pixels(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pink noise, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 1), np.uint8)
    return np.array([180, 90, 140], np.uint8) + noise


def write_instance(
    path: Path,
    image: NDArray[np.uint8],
    *,
    series: str = "one",
    flavour: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    spacing: tuple[str, str] | None = ("0.0005", "0.0005"),
    tile: int = 32,
    sparse: tuple[tuple[int, int], ...] | None = None,
    keep: slice = slice(None),
    **tags: Any,
) -> Path:
    """Write one instance of a whole slide.

    Parameters
    ----------
    image : uint8 array (height, width, 3)
    series : str
        What the series is called; its UID follows from it.
    spacing : (str, str) or None
        PixelSpacing in mm as written: between rows, between columns.
    sparse : tuple of (column, row), optional
        The only tiles that are stored, with their places (TILED_SPARSE).
    keep : slice
        Which of the frames are stored, the file still declaring what it declares.
    tags
        Further attributes, by their keywords; None leaves an attribute out.
    """
    height, width = image.shape[:2]
    columns, rows = -(-width // tile), -(-height // tile)
    padded = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    padded[:height, :width] = image
    places = sparse or tuple((c, r) for r in range(rows) for c in range(columns))
    frames = [padded[r * tile : r * tile + tile, c * tile : c * tile + tile] for c, r in places][keep]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = WSM
    meta.MediaStorageSOPInstanceUID = uid(series, path.name, image.shape)
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.ImageType = list(flavour)
    data.SOPClassUID, data.SOPInstanceUID = WSM, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesDescription = "SM", f"Series {series}"
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("study"), uid("series", series)
    data.FrameOfReferenceUID = uid("frame", series)
    data.ContainerIdentifier = "S1"
    data.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.Rows = data.Columns = tile
    data.NumberOfFrames = len(frames)
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
    data.TotalPixelMatrixFocalPlanes = 1
    shared = Dataset()
    if spacing is not None:
        measures = Dataset()
        measures.PixelSpacing = list(spacing)
        shared.PixelMeasuresSequence = Sequence([measures])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    if sparse:
        groups = []
        for column, row in places[keep]:
            place = Dataset()
            place.ColumnPositionInTotalImagePixelMatrix = column * tile + 1
            place.RowPositionInTotalImagePixelMatrix = row * tile + 1
            group = Dataset()
            group.PlanePositionSlideSequence = Sequence([place])
            groups.append(group)
        data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.PixelData = b"".join(frame.tobytes() for frame in frames)
    if len(data.PixelData) % 2:
        data.PixelData += b"\0"
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_slide(folder: Path, name: str = "a", *, seed: int = 0, **options: Any) -> list[Path]:
    """Two levels of one slide, 160x96 and 80x48 px; their paths, the larger first."""
    image = pixels(160, 96, seed)
    options = {"series": name, **options}
    first = write_instance(folder / f"{name}_level0.dcm", image, **options)
    options["spacing"] = ("0.001", "0.001")
    half = image.reshape(48, 2, 80, 2, 3).mean((1, 3)).astype(np.uint8)
    flavour = ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")
    return [first, write_instance(folder / f"{name}_level1.dcm", half, flavour=flavour, **options)]
