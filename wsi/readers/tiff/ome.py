"""What OME-XML says of one image of an OME-TIFF (OME schema 2016-06)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tifffile import TiffFile, TiffFileError, TiffPageSeries

from wsi.readers.scale import at_even_times, pair, plausible, rising, to_micrometres, to_seconds


@dataclass(frozen=True)
class OmeImage:
    """One `Image` element.

    Attributes
    ----------
    name : str
        Its name, or its ID where it has none.
    number : int
        Its place among the Image elements.
    files : tuple of str
        Names of the files that hold its planes, where it names them.
    set_uuid : str
        The UUID of the file that holds the XML.
    """

    element: ElementTree.Element
    name: str
    number: int
    files: tuple[str, ...]
    set_uuid: str = ""

    @property
    def pixels(self) -> ElementTree.Element | None:
        """Its `Pixels` element."""
        return next(_children(self.element, "Pixels"), None)

    @property
    def mpp_xy(self) -> tuple[float, float] | None:
        """um per px; the schema's default unit is the micrometre."""
        if self.pixels is None:
            return None
        return plausible(pair(*(_length(self.pixels, axis) for axis in ("X", "Y"))))

    @property
    def depth_um(self) -> float | None:
        """Distance of neighbouring planes in um."""
        return None if self.pixels is None else _length(self.pixels, "Z")

    @property
    def properties(self) -> dict[str, str]:
        """Name and pixel sizes as stated."""
        found = {"ome.Name": self.element.get("Name", "")}
        for key in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeXUnit", "PhysicalSizeYUnit"):
            if self.pixels is not None and self.pixels.get(key):
                found[f"ome.{key}"] = self.pixels.get(key, "")
        return found

    @property
    def channels(self) -> list[tuple[str, int]]:
        """Name of every Channel element, and how many samples of a px it stands for."""
        if self.pixels is None:
            return []
        return [
            (channel.get("Name", ""), _whole(channel.get("SamplesPerPixel"), 1))
            for channel in _children(self.pixels, "Channel")
        ]

    def seconds(self, times: int) -> tuple[float, ...] | None:
        """Times of the first plane of every time point (`DeltaT`), else of an even `TimeIncrement`."""
        if self.pixels is None:
            return None
        found: dict[int, float | None] = {}
        for plane in _children(self.pixels, "Plane"):
            if plane.get("TheZ") == "0" and plane.get("TheC") == "0":
                at = to_seconds(plane.get("DeltaT"), plane.get("DeltaTUnit", "s"))
                found[_whole(plane.get("TheT"), -1)] = at
        measured = rising([found.get(t) for t in range(times)])
        if measured is not None:
            return measured
        step = to_seconds(self.pixels.get("TimeIncrement"), self.pixels.get("TimeIncrementUnit", "s"))
        return at_even_times(step, times)


def images_of(xml: str) -> list[OmeImage]:
    """The Image elements of an OME-XML text, in its order; none where it is no XML."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    found = []
    uuid = root.get("UUID", "")
    for number, element in enumerate(e for e in root.iter() if _tag(e) == "Image"):
        files = [e.get("FileName", "") for e in element.iter() if _tag(e) == "UUID"]
        name = element.get("Name") or element.get("ID") or f"Image {number}"
        found.append(OmeImage(element, name, number, tuple(dict.fromkeys(f for f in files if f)), uuid))
    return found


def metadata_file(xml: str) -> str:
    """Name of the file that holds the OME-XML of a file that states only that (BinaryOnly); '' elsewhere."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ""
    only = next(_children(root, "BinaryOnly"), None)
    return "" if only is None else only.get("MetadataFile", "")


def companion_xml(path: Path, name: str) -> str | None:
    """OME-XML in the file of that name beside `path`: a companion file or an OME-TIFF; None where it is not."""
    file = path.with_name(Path(name).name)  # a name in a file never leads out of its folder
    if not file.is_file():
        return None
    try:
        with TiffFile(file) as tif:
            return tif.ome_metadata
    except TiffFileError:
        return file.read_text(encoding="utf-8-sig", errors="replace")


def image_of_series(tif: TiffFile, series: TiffPageSeries, images: list[OmeImage]) -> OmeImage | None:
    """The element that a series was made of, found by the pages that both name; None when it is not certain.

    tifffile leaves out images whose files are missing, so that the place of a series says nothing.
    """
    if len(images) == len(tif.series) == 1:
        return images[0]
    pages = {(page.parent.filename.lower(), page.index) for page in series.pages if page is not None}
    holders = [image for image in images if pages & set(_pages_of(tif, image))]
    return holders[0] if len(holders) == 1 else None


def _pages_of(tif: TiffFile, image: OmeImage) -> Iterator[tuple[str, int]]:
    """File name and page of every plane of an image, as its TiffData elements state them."""
    own = tif.filename.lower()
    for data in _children(image.pixels, "TiffData") if image.pixels is not None else ():
        uuid = next(_children(data, "UUID"), None)
        file = own if uuid is None else uuid.get("FileName", "").lower() or own
        if uuid is not None and image.set_uuid and (uuid.text or "").strip() == image.set_uuid:
            file = own  # renamed since it was written
        first = _whole(data.get("IFD"), 0)
        planes = _whole(data.get("PlaneCount", data.get("NumPlanes")), 1 if "IFD" in data.attrib else 0)
        if not planes:
            planes = len(tif.pages) if file == own else 1
        yield from ((file, first + i) for i in range(min(planes, 1 << 20)))


def _length(pixels: ElementTree.Element, axis: str) -> float | None:
    return to_micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "um"))


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _tag(child) == tag)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _whole(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        return default
