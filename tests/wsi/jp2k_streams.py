"""JPEG 2000 code streams with components of different sizes, put together from streams of single components."""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np

_COD, _QCD, _SIZ = 0x52, 0x5C, 0x51


def ycbcr(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB as Y, Cb, Cr."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]].copy()


def _parts(stream: bytes) -> tuple[dict[int, bytes], bytes]:
    """Segments of the main header by marker, and the packets of the only tile-part."""
    segments, at = {}, 2
    while stream[at + 1] != 0x90:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        segments[stream[at + 1]] = stream[at:end]
        at = end
    return segments, stream[stream.index(b"\xff\x93", at) + 2 : -2]


def encoded(planes: list[np.ndarray], step_x: int, step_y: int, level: int | None = None) -> bytes:
    """Stream of planes, the first of full size and the others smaller by the steps; `level` is the PSNR, None lossless.

    With one precinct per resolution, the order component - position - resolution - layer (ITU-T T.800, B.12.1.5)
    is the packets of one component after those of the other.
    """
    heads, packets = zip(
        *(
            _parts(
                imagecodecs.jpeg2k_encode(
                    np.ascontiguousarray(plane), level, codecformat="j2k", reversible=not level, resolutions=3
                )
            )
            for plane in planes
        ),
        strict=True,
    )
    first = heads[0]
    assert all(head[_COD] == first[_COD] and head[_QCD] == first[_QCD] for head in heads)
    steps = [(1, 1)] + [(step_x, step_y)] * (len(planes) - 1)
    size = bytearray(first[_SIZ][:38] + len(planes).to_bytes(2, "big"))
    size += b"".join(bytes([7, x, y]) for x, y in steps)
    size[2:4] = (len(size) - 2).to_bytes(2, "big")
    coding = bytearray(first[_COD])
    coding[5], coding[8] = 4, 0
    body = b"\xff\x93" + b"".join(packets)
    tile = b"\xff\x90\0\x0a\0\0" + (12 + len(body)).to_bytes(4, "big") + b"\0\1" + body
    return b"\xff\x4f" + bytes(size) + bytes(coding) + first[_QCD] + tile + b"\xff\xd9"


def ycbcr_tile(pixels: np.ndarray, step_x: int = 1, step_y: int = 1, level: int | None = None) -> bytes:
    """A tile as Aperio's 33003 stores it."""
    planes = ycbcr(pixels)
    height, width = planes.shape[:2]
    small = [
        cv2.resize(planes[..., i], (width // step_x, height // step_y), interpolation=cv2.INTER_AREA) for i in (1, 2)
    ]
    return encoded([planes[..., 0], *small], step_x, step_y, level)
