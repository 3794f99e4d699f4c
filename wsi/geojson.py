"""Reading GeoJSON files, plain or gzip."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from wsi.errors import AnnotationError


def load_geojson(path: Path, error: type[Exception] = AnnotationError) -> Any:
    """The JSON value of a file; gzip is told by its first bytes, whatever the name.

    Raises
    ------
    AnnotationError, or the class given as `error`
        The file is missing, unreadable or not JSON.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data.decode("utf-8-sig"))
    except FileNotFoundError as failed:
        raise error(f"There is no GeoJSON file at {path}.") from failed
    except (OSError, EOFError) as failed:
        raise error(f"{path} cannot be read: {failed}.") from failed
    except (UnicodeDecodeError, ValueError, RecursionError) as failed:
        raise error(f"{path} is not GeoJSON: {failed}. Export the annotations again.") from failed
