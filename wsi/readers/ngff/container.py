"""Where OME-Zarr lies: a folder, a zip file or an address, and the groups, keys and chunks in it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import zarr
import zarr.errors
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ZipStore

from wsi.errors import SlideError, UnsupportedSlideError
from wsi.files.address import RemotePath
from wsi.readers.ngff.limits import MAX_METADATA_BYTES, GuardedStore
from wsi.readers.ngff.metadata import ome_of

MARKERS = ("zarr.json", ".zattrs", ".zgroup")
_CHUNK_NAMES = 24


class Container:
    """A folder, a zip or an address, and what lies in it. Not safe to use after `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inside = ""
        zip_path, inner = split_zip(path)
        if isinstance(path, RemotePath):
            from wsi.readers.ngff.remote import open_store

            self.store: Any = open_store(path)
        elif zip_path is not None:
            store = ZipStore(zip_path, mode="r")
            store._sync_open()  # a file that is no zip is refused here
            self.store = GuardedStore(store)
            self.names = frozenset(store._zf.namelist())
            self.inside = inner
        else:
            self.store = GuardedStore(LocalStore(path, read_only=True))
        self.file = zip_path or path

    def close(self) -> None:
        """Close the store."""
        if isinstance(self.path, RemotePath) or self.store._store._is_open:
            self.store.close()

    def where(self, group: str) -> str:
        """The place of a group, for messages."""
        return str(self.file / group) if group else str(self.file)

    def group(self, place: str) -> zarr.Group | None:
        """The group at a place, None where there is none. Raises UnsupportedSlideError where it is damaged."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return zarr.open_group(self.store, mode="r", path=place, use_consolidated=False)
        except (FileNotFoundError, zarr.errors.NodeTypeValidationError):
            return None
        except SlideError:
            raise
        except Exception as error:  # zarr raises what its parsers raise
            raise UnsupportedSlideError(
                f"{self.where(place)} has OME-Zarr metadata that cannot be read: {error!r}. Copy it again."
            ) from error

    def ome(self, place: str) -> Mapping[str, object] | None:
        """The OME metadata of a group, None where there is no group."""
        group = self.group(place)
        return None if group is None else ome_of(group.attrs.asdict(), self.where(place))

    def read(self, key: str) -> bytes | None:
        """The bytes of a small object, None where it does not exist or is too large to be one."""
        found = sync(self.store.get(key, default_buffer_prototype()))
        return None if found is None or len(found) > MAX_METADATA_BYTES else bytes(found.to_bytes())

    def chunk_names(self, place: str) -> list[str] | None:
        """Some names of chunks, or of their folders, of an array; None where they cannot be listed."""
        if isinstance(self.path, RemotePath):
            return None
        if hasattr(self, "names"):
            start = f"{place}/" if place else ""
            inside = (name[len(start) :].split("/", 1)[0] for name in self.names if name.startswith(start))
            return _some_chunks(inside)
        with os.scandir(self.file / place) as entries:
            return _some_chunks(entry.name for entry in entries)

    def children(self, place: str) -> list[str]:
        """Names of the groups and arrays directly below a group, numbers in their order; none at an address."""
        if isinstance(self.path, RemotePath):
            return []
        if hasattr(self, "names"):
            start = f"{place}/" if place else ""
            markers = tuple(f"/{marker}" for marker in (*MARKERS, ".zarray"))
            found = {
                name[len(start) :].split("/", 1)[0]
                for name in self.names
                if name.startswith(start) and name.endswith(markers) and name.count("/") > start.count("/")
            }
        else:
            folder = self.file / place if place else self.file
            found = {each.name for each in folder.iterdir() if is_ngff_folder(each)}
        return sorted(found, key=natural)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Key that sorts names with numbers as people count: 2 before 10."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name))


def is_ngff_folder(path: Path) -> bool:
    """Whether a folder looks like a Zarr group."""
    return path.is_dir() and any((path / marker).is_file() for marker in MARKERS)


def ngff_folders(path: Path) -> str:
    """Names of some OME-Zarr folders directly in a folder, for messages."""
    found = sorted((each.name for each in path.iterdir() if is_ngff_folder(each)), key=natural)
    return ", ".join(found[:_CHUNK_NAMES]) + (", ..." if len(found) > _CHUNK_NAMES else "")


def split_zip(path: Path) -> tuple[Path | None, str]:
    """The zip file that a path names or leads into, and the group inside: `plate.zip/A/1/0`."""
    if isinstance(path, RemotePath) or path.is_dir():
        return None, ""
    for parent in (path, *path.parents):
        if parent.is_file():
            return parent, path.relative_to(parent).as_posix() if parent != path else ""
        if parent.exists():
            break
    return None, ""


def _some_chunks(names: Iterable[str]) -> list[str]:
    return list(islice((name for name in names if name[:1] not in ("", ".") and name != "zarr.json"), _CHUNK_NAMES))
