"""Addresses on the network as paths: https://host/slide.zarr and s3://bucket/slide.zarr."""

from __future__ import annotations

import os
import re
import sys
from os import PathLike
from pathlib import Path, PosixPath, WindowsPath
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING or sys.platform != "win32":
    _Local = PosixPath
else:  # pragma: no cover
    _Local = WindowsPath

_KNOWN = "https?|s3|gs|gcs|abfss?|azure|az|adl|hdfs|s?ftp|ssh|webdavs?|davs?|hf|file|dcmweb:https?"
# A Path leaves one slash of two: kinds that are known are recognised by it.
_ADDRESS = re.compile(rf"({_KNOWN}):[/\\]+|([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class RemotePath(_Local):
    """An address on the network that can stand wherever a slide's path stands.

    It is a `Path` whose text is the address: `name`, `stem`, `parent` and `/` work on it, `absolute` and
    `resolve` leave it alone, and nothing of it exists on the local disk. `pathlib` makes one slash of two;
    the address gets them back.
    """

    __slots__ = ("_address",)
    _address: str

    def __str__(self) -> str:
        try:
            return self._address
        except AttributeError:
            text = super().__str__().replace("\\", "/")
            scheme, _, rest = text.partition(":/") if ":/" in text else (text.rstrip(":"), "", "")
            slashes = ":///" if scheme.lower() == "file" else "://"
            self._address = f"{scheme}{slashes}{rest.lstrip('/')}"
        return self._address

    @property
    def scheme(self) -> str:
        """http, https, s3 or another, in lower case."""
        return str(self).partition("://")[0].lower()

    def absolute(self) -> Self:
        """The address itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """The address itself."""
        return self

    def expanduser(self) -> Self:
        """The address itself."""
        return self

    def is_absolute(self) -> bool:
        """Always true: an address does not depend on the working directory."""
        return True

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (str(self),)


def as_path(path: str | PathLike[str]) -> Path:
    """A path as `Path`, an address as `RemotePath`; also one that a `Path` made `https:/host` of."""
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    return RemotePath(text) if _ADDRESS.match(text) else Path(text)


def may_exist(path: str | PathLike[str]) -> bool:
    """Whether a slide may be there: a file or folder, a group inside a zip file, or an address, which is not asked."""
    place = as_path(path)
    return isinstance(place, RemotePath) or place.exists() or any(parent.is_file() for parent in place.parents)
