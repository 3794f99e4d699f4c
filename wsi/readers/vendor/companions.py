"""The files beside a slide's own that hold its px: MRXS folders, VMS and VMU sets."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from wsi.errors import UnsupportedSlideError

_MIRAX = re.compile(r"indexfile$|file_\d+$")
_HAMAMATSU = re.compile(r"imagefile|mapfile|optimisationfile|macroimage")


def companion_files(path: Path, vendor: str | None) -> tuple[Path, ...]:
    """Every file that a slide consists of, its own first, in an order that names do not change.

    Parameters
    ----------
    path : Path
        The file that is opened.
    vendor : str or None
        OpenSlide's name of the format. 'mirax': what `Slidedat.ini` in the folder beside it names;
        'hamamatsu-vms' and 'hamamatsu-vmu': the files that the text of `path` names. For DICOM see `slide_of`.
        A file that is named and not there is left out: reading it fails.
    """
    if vendor == "mirax":
        index = path.with_suffix("") / "Slidedat.ini"
        return (path, index, *_named_in(index, _MIRAX))
    if vendor in ("hamamatsu-vms", "hamamatsu-vmu"):
        return (path, *_named_in(path, _HAMAMATSU))
    return (path,)


def _named_in(index: Path, wanted: re.Pattern[str]) -> list[Path]:
    """The files beside an INI file that the values of such keys name."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read_string(index.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    except (OSError, configparser.Error) as error:
        raise UnsupportedSlideError(f"{index} cannot be read: {error}. Copy the whole slide again.") from error
    named = [
        index.parent / value.strip()
        for section in parser.sections()
        for key, value in parser.items(section)
        if value and value.strip() and wanted.match(key)
    ]
    return [file for file in dict.fromkeys(named) if file.is_file()]
