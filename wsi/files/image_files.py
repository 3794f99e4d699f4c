"""Small images read and written whole. OpenCV decodes; the bytes go through Python, which knows every file name.

OpenCV's own reading and writing of files crashes on names that are no UTF-8, and on Windows fails on many others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB


def write_png(path: Path, pixels: RGB, *, compression: int = 3) -> None:
    """Write an image, uint8 (height, width, 3), as PNG; `compression` goes from 0 to 9. Raises OSError."""
    done, encoded = cv2.imencode(
        ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, compression]
    )
    if not done:
        raise OSError(f"{path} cannot be encoded as PNG.")
    path.write_bytes(encoded.tobytes())


def read_image(path: Path, flags: int) -> NDArray[Any] | None:
    """An image as OpenCV decodes it with `flags` (`cv2.IMREAD_...`), None where it cannot."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, flags) if data.size else None
