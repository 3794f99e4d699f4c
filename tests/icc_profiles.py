"""ICC profiles written by hand (ICC.1:2001-04), and what they mean by formula."""

from __future__ import annotations

import struct

import numpy as np

WHITE = (0.9642, 1.0, 0.8249)  # D50, the white of the profile connection space
# Columns are the colorants of red, green and blue, adapted to D50.
SRGB = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
WIDE = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])  # Adobe RGB (1998)


def _s15(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in np.ravel(values))


def _profile(tags: dict[str, bytes], space: str, kind: str) -> bytes:
    head = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name.encode(), head + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", head + len(data), b"test", 0x02100000, kind.encode(), space.encode().ljust(4), b"XYZ "
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + _s15(WHITE)
    return header.ljust(128, b"\0") + table + data


def _common(name: str) -> dict[str, bytes]:
    text = name.encode() + b"\0"
    described = b"desc" + b"\0" * 4 + struct.pack(">I", len(text)) + text + b"\0" * 78
    return {"desc": described, "cprt": b"text" + b"\0" * 4 + b"none\0", "wtpt": b"XYZ " + b"\0" * 4 + _s15(WHITE)}


def _gamma(gamma: float) -> bytes:
    return b"curv" + b"\0" * 4 + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(gamma: float, colorants: np.ndarray = SRGB, name: str = "made by hand", kind: str = "scnr") -> bytes:
    """A matrix/TRC profile of RGB."""
    tags = _common(name)
    for at, letter in enumerate("rgb"):
        tags[f"{letter}XYZ"] = b"XYZ " + b"\0" * 4 + _s15(colorants[:, at])
        tags[f"{letter}TRC"] = _gamma(gamma)
    return _profile(tags, "RGB", kind)


def gray_profile(gamma: float = 2.2) -> bytes:
    """A profile of gray."""
    return _profile(_common("gray by hand") | {"kTRC": _gamma(gamma)}, "GRAY", "mntr")


def cmyk_profile() -> bytes:
    """The head of a profile of CMYK, without tables."""
    return _profile(_common("ink by hand"), "CMYK", "prtr")


def as_srgb(stored: tuple[int, int, int], gamma: float, colorants: np.ndarray = SRGB) -> np.ndarray:
    """What a stored colour is in sRGB by formula: TRC, matrix, inverse matrix, sRGB curve. float64 (3,), 0..255."""
    linear = np.linalg.inv(SRGB) @ (colorants @ (np.array(stored) / 255) ** gamma)
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
