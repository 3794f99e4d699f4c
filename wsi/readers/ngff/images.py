"""Which images an OME-Zarr container holds, and which of them is meant: named, never chosen by chance.

A container is a folder, a zip file or an address. Its images are those of one group, of the series that
bioformats2raw writes (numbers, or the list in OME), of the fields of a plate or a well, or of groups side by side.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from wsi.errors import PlaneError, SlideNotFoundError, UnsupportedSlideError
from wsi.files.address import RemotePath
from wsi.readers.ngff.container import MARKERS, Container, natural
from wsi.readers.ngff.metadata import multiscales_of, ome_of, read_multiscale
from wsi.readers.ngff.transforms import safe_path

_LISTED = 24  # images whose sizes a message shows
_DEEPEST = 3
_MOST_GROUPS = 10_000


@dataclass(frozen=True)
class ImageEntry:
    """One image of a container: its group, which of the group's multiscales, and its name."""

    group: str
    multiscale: int
    name: str


@dataclass(frozen=True)
class Images:
    """The images of a container in the order that `series` counts; None where one is missing.

    `kind` is 'image', 'series', 'plate', 'well' or 'groups'.
    """

    kind: str
    entries: tuple[ImageEntry | None, ...]


def choose_image(container: Container, series: int | None) -> tuple[ImageEntry, Images]:
    """The image that is meant.

    Raises
    ------
    PlaneError
        There are several and none is named, or there is none of that number; the message lists them.
    SlideNotFoundError, UnsupportedSlideError
        There is no image.
    """
    images = find_images(container)
    if images.kind in ("plate", "well") and series is None:
        raise PlaneError(_which_field(container, images))
    if series is None and len(images.entries) > 1:
        raise PlaneError(
            f"{container.path} holds {len(images.entries)} images. Choose one: --series 0 on the command line, "
            f"series=0 in Python. {_listed(container, images)}."
        )
    if not 0 <= (series or 0) < len(images.entries):
        raise PlaneError(
            f"{container.path} has images 0 to {len(images.entries) - 1}, not {series}. {_listed(container, images)}."
        )
    entry = images.entries[series or 0]
    if entry is None:
        raise PlaneError(f"{container.path} has no image {series}. {_listed(container, images)}.")
    return entry, images


def find_images(container: Container) -> Images:
    """All images of a container."""
    roots = [container.inside]
    if hasattr(container, "names"):
        roots = _zip_roots(container)
        if len(roots) != 1:
            found = [entry for root in roots for entry in _below(container, root, _DEEPEST)]
            return _some(container, Images("groups", tuple(map(_with_group, found))))
    place = roots[0]
    ome = container.ome(place)
    if ome is None:
        refused = getattr(container.store, "refused", "")
        if container.read(_join(place, ".zattrs")) is not None:
            refused = "has .zattrs and no .zgroup, so it is no whole OME-Zarr group"
        raise SlideNotFoundError(
            f"{container.path} {refused or 'holds no OME-Zarr group'}: none of {', '.join(MARKERS)} can be read there. "
            "Check the path"
            + ("; over the network only OME-Zarr is read." if isinstance(container.path, RemotePath) else ".")
        )
    where = container.where(place)
    if "plate" in ome:
        return _some(container, Images("plate", tuple(_fields(container, place, ome["plate"], where))))
    if "well" in ome:
        return _some(container, Images("well", tuple(_well(container, place, ome["well"], where))))
    found = _of_group(place, ome, where)
    if found:
        return Images("image" if len(found) == 1 else "groups", tuple(found))
    series = _series(container, place, ome, where)
    if series:
        return Images("series", tuple(series))
    below = [_with_group(entry) for entry in _below(container, place, _DEEPEST)]
    return _some(container, Images("groups", tuple(below)))


def _with_group(entry: ImageEntry) -> ImageEntry:
    """The image named by its group too: images side by side often share a name."""
    named = entry.name if entry.group.endswith(entry.name) else f"{entry.group} {entry.name}"
    return replace(entry, name=named)


def _some(container: Container, images: Images) -> Images:
    if any(entry is not None for entry in images.entries):
        return images
    raise UnsupportedSlideError(
        f"{container.path} is a Zarr group without an OME-Zarr image: 'multiscales' is not in its attributes"
        + (
            ", and groups below an address cannot be listed: give the address of the image."
            if isinstance(container.path, RemotePath)
            else "."
        )
    )


def _of_group(place: str, ome: Mapping[str, object], where: str) -> list[ImageEntry]:
    images = multiscales_of(ome, where)
    names = [image.get("name") for image in images]
    return [
        ImageEntry(place, number, name if isinstance(name, str) and name else f"{place.rpartition('/')[2] or 'image'}")
        for number, name in enumerate(names)
    ]


def _series(container: Container, place: str, ome: Mapping[str, object], where: str) -> list[ImageEntry | None]:
    """Images that bioformats2raw wrote: those that OME lists, or the numbered groups up to the last."""
    side = container.ome(_join(place, "OME")) or {}
    if "bioformats2raw.layout" not in ome and "series" not in side:
        return []
    names = _names_in_xml(container, _join(place, "OME/METADATA.ome.xml"))
    listed = side.get("series")
    if listed is None:
        count = len(names)
        numbered = [int(child) for child in container.children(place) if child.isdecimal()]
        if isinstance(container.path, RemotePath) and not count:
            while count < _MOST_GROUPS and container.group(_join(place, str(count))) is not None:
                count += 1
        listed = [str(number) for number in range(max([count, *(number + 1 for number in numbered)]))]
    if not isinstance(listed, list) or len(listed) > _MOST_GROUPS:
        raise UnsupportedSlideError(f"{where}/OME states series: {listed!r:.80}, which is no list of groups.")
    paths = [_join(place, safe_path(each, f"{where}/OME", "series")) for each in listed]
    found: list[ImageEntry | None] = []
    for number, group in enumerate(paths):
        inside = None if isinstance(container.path, RemotePath) else container.ome(group)
        own = _of_group(group, inside, container.where(group)) if inside else []
        missing = not own and not isinstance(container.path, RemotePath)
        stated = names[number] if len(names) == len(paths) else ""
        name = stated or (own[0].name if own else group)
        found.append(None if missing else ImageEntry(group, 0, name))
    while found and found[-1] is None and not names:
        found.pop()
    return found


def _names_in_xml(container: Container, key: str) -> list[str]:
    """Names of the images in OME-XML; none where there is no such file or it is damaged."""
    text = container.read(key)
    if not text:
        return []
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return []
    return [each.get("Name") or "" for each in root if each.tag.rpartition("}")[2] == "Image"]


def _fields(container: Container, place: str, plate: object, where: str) -> Iterator[ImageEntry]:
    wells = plate.get("wells") if isinstance(plate, Mapping) else None
    if not isinstance(wells, list) or not wells or len(wells) > _MOST_GROUPS:
        raise UnsupportedSlideError(
            f"{where} is a plate that states wells: {wells!r:.80}, which is no list. Open one field by its path."
        )
    for well in wells:
        path = safe_path(well.get("path") if isinstance(well, Mapping) else well, f"{where}, plate,")
        group = _join(place, path)
        if isinstance(container.path, RemotePath):
            yield ImageEntry(
                group, 0, path
            )  # a plate has hundreds of wells: each is asked for its fields when it is opened
            continue
        ome = container.ome(group) or {}
        if "well" in ome:
            yield from _well(container, group, ome["well"], container.where(group), f"{path}/")


def _well(container: Container, place: str, well: object, where: str, prefix: str = "") -> Iterator[ImageEntry]:
    fields = well.get("images") if isinstance(well, Mapping) else None
    if not isinstance(fields, list) or len(fields) > _MOST_GROUPS:
        raise UnsupportedSlideError(
            f"{where} is a well that states images: {fields!r:.80}, which is no list. Open one field by its path."
        )
    for field in fields:
        path = safe_path(field.get("path") if isinstance(field, Mapping) else field, f"{where}, well,")
        yield ImageEntry(_join(place, path), 0, prefix + path)


def _below(container: Container, place: str, depth: int) -> Iterator[ImageEntry]:
    """Images of a group and of the groups below it; not of what lies inside an image (its labels)."""
    ome = container.ome(place)
    if ome is None:
        return
    found = _of_group(place, ome, container.where(place))
    if found:
        yield from found
    elif depth:
        for child in container.children(place)[:_MOST_GROUPS]:
            yield from _below(container, _join(place, child), depth - 1)


def _zip_roots(container: Container) -> list[str]:
    """The uppermost groups of a zip at or below the place asked for."""
    groups = {name.rpartition("/")[0] for name in container.names if name.rpartition("/")[2] in MARKERS}
    if container.inside:
        if container.inside not in groups:
            inside = [group for group in groups if group.startswith(f"{container.inside}/")]
            if not inside:
                raise SlideNotFoundError(
                    f"{container.file} holds no group {container.inside}. Uppermost in it: "
                    f"{', '.join(_uppermost(groups)[:_LISTED]) or 'no OME-Zarr group'}."
                )
            return _uppermost(set(inside))
        return [container.inside]
    if not groups:
        raise SlideNotFoundError(f"{container.path} holds no OME-Zarr group: none of {', '.join(MARKERS)} is in it.")
    return _uppermost(groups)


def _uppermost(groups: set[str]) -> list[str]:
    if "" in groups:
        return [""]
    return sorted((g for g in groups if not any(parent in groups for parent in _parents(g))), key=natural)


def _parents(group: str) -> list[str]:
    parts = group.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _which_field(container: Container, images: Images) -> str:
    first = next(entry for entry in images.entries if entry is not None)
    what = "field" if images.kind == "well" or not isinstance(container.path, RemotePath) else "well"
    place = first.group[len(container.inside) :].lstrip("/") if container.inside else first.group
    if images.kind == "plate" and what == "well":
        place += "/0"
    count = f"{len(images.entries)} {what}{'s' * (len(images.entries) != 1)}"
    return (
        f"{container.path} is a {images.kind} of {count}. Open one by its path, like "
        f"{container.path / place}, or by its number: --series 0, series=0 in Python. {_listed(container, images)}."
    )


def _listed(container: Container, images: Images) -> str:
    """'0: name (width x height), ...' of the first images."""
    parts = []
    for number, entry in enumerate(images.entries[:_LISTED]):
        parts.append(f"{number}: " + ("missing" if entry is None else label(container, entry)))
    more = len(images.entries) - len(parts)
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def label(container: Container, entry: ImageEntry) -> str:
    """Name and size of an image; the name alone at an address, or where the size cannot be read."""
    size = None if isinstance(container.path, RemotePath) else _size(container, entry)
    return f"{entry.name} ({size[0]}x{size[1]})" if size else entry.name


def labels(container: Container, images: Images) -> tuple[str, ...]:
    """Names, and sizes where there are few, of all images."""
    few = len(images.entries) <= _LISTED
    return tuple("" if entry is None else label(container, entry) if few else entry.name for entry in images.entries)


def _size(container: Container, entry: ImageEntry) -> tuple[int, int] | None:
    """Width and height of the first dataset, as a hint in messages."""
    try:
        group = container.group(entry.group)
        assert group is not None
        attributes = group.attrs.asdict()
        image = read_multiscale(ome_of(attributes, ""), entry.multiscale, "", "ome" in attributes)
        array = group[image.datasets[0].path]
        sizes = dict(zip(image.axes, array.shape, strict=True))  # type: ignore[union-attr]
        return int(sizes["x"]), int(sizes["y"])
    except Exception:  # a hint only: what is wrong with an image is said when it is opened
        return None
