"""What the samples of a TIFF px mean: colours, channels or alpha (TIFF 6.0, sections 3 to 8 and 18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

from wsi.errors import UnsupportedSlideError
from wsi.readers.source import Raw
from wsi.slide import RGB

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_KNOWN = (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR)
_ASSOCIATED_ALPHA, _ALPHA = 1, 2
_DECODED_TO_RGB = {6, 7, 33007, 50001, 34892, 50002, 52546}  # JPEG, WebP and JPEG XL undo YCbCr themselves
_APERIO_JPEG2000 = {33003, 33004, 33005}


@dataclass(frozen=True)
class Samples:
    """The samples of one image.

    Attributes
    ----------
    kind : int
        PhotometricInterpretation; YCbCr that its codec turns into RGB counts as RGB.
    count : int
        Samples per px as stored.
    channels : tuple of int
        Which samples are channels: red, green and blue first where `is_color`. Extra samples of no stated
        meaning are channels too. For a palette, the three colours it leads to.
    is_color : bool
        The first three channels are red, green and blue.
    alpha : int or None
        Which sample is alpha. Extra samples are alpha only where the file says so.
    premultiplied : bool
        The colours are already multiplied with alpha.
    dtype : numpy dtype
        Type of the decoded samples.
    bits : int
        Bits of a sample that carry its value.
    table : uint8 array (values, 3) or None
        Colours of a palette.
    """

    kind: int
    count: int
    channels: tuple[int, ...]
    is_color: bool
    alpha: int | None
    premultiplied: bool
    dtype: np.dtype[Any]
    bits: int
    table: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, key: TiffPage, where: object) -> Samples:
        """The samples that a directory entry states; `where` is for messages.

        Raises
        ------
        UnsupportedSlideError
            Colours or bit depths that are not understood.
        """
        kind, count = int(key.photometric), key.samplesperpixel
        if kind not in _KNOWN:
            name = getattr(key.photometric, "name", "a kind that is not known")
            raise UnsupportedSlideError(
                f"{where} stores colours as {name} (PhotometricInterpretation {kind}); save it as RGB or gray."
            )
        if kind == _YCBCR and int(key.compression) not in _DECODED_TO_RGB | _APERIO_JPEG2000:
            raise UnsupportedSlideError(f"{where} stores YCbCr colours without JPEG; save it as RGB.")
        is_color = kind in (_RGB, _YCBCR)
        stated = key.tags.valueof(258, 1)
        if isinstance(stated, tuple) and len(set(stated)) > 1:
            raise UnsupportedSlideError(
                f"{where} stores its samples with different bits ({', '.join(map(str, stated))}); "
                "save all samples with the same bits."
            )
        colors = 3 if is_color else 1
        if count < colors:
            raise UnsupportedSlideError(f"{where} states {count} samples per px, which is no RGB.")
        extras = [int(extra) for extra in key.extrasamples or ()][: count - colors]
        extras += [0] * (count - colors - len(extras))
        kinds = [0] * colors + extras
        alpha = next((i for i, extra in enumerate(kinds) if extra in (_ASSOCIATED_ALPHA, _ALPHA)), None)
        if key.dtype is None:
            raise UnsupportedSlideError(f"{where} stores samples of a type that is not understood.")
        dtype, bits = np.dtype(key.dtype), key.bitspersample
        table = None
        if kind == _PALETTE:
            if key.colormap is None or count - (alpha is not None) != 1:
                raise UnsupportedSlideError(f"{where} states a palette and holds none; save it as RGB.")
            stored = np.asarray(key.colormap)
            table = (stored >> 8 if stored.max() > 255 else stored).astype(np.uint8).T.copy()
        channels = tuple(i for i in range(count) if i != alpha)
        return cls(
            kind,
            count,
            (0, 1, 2) if table is not None else channels,
            is_color or table is not None,
            alpha,
            alpha is not None and kinds[alpha] == _ASSOCIATED_ALPHA,
            dtype,
            bits,
            table,
        )

    @property
    def full(self) -> int:
        """The largest value of an unsigned sample."""
        return 1 if self.dtype == np.bool_ else 2**self.bits - 1

    @property
    def shown_in_8_bits(self) -> bool:
        """Whether red, green and blue need no rendering."""
        return self.is_color and (self.table is not None or self.dtype == np.uint8)

    def channel(self, values: Raw, alpha: Raw | None) -> Raw:
        """Stored values (h, w) of one channel as they count: 0 is dark, and alpha is applied over white."""
        if self.kind == _MIN_IS_WHITE:
            values = self._inverted(values)
        if alpha is None or self.dtype.kind not in "ub":
            return values
        return self._over_white(values, alpha)

    def rgb(self, raw: Raw) -> RGB:
        """Stored samples (h, w, count), or (h, w) where count is 1, as RGB in 8 bits.

        Raises
        ------
        ValueError
            Samples of a type that needs a rendering.
        """
        if self.table is not None:
            index = raw[..., 0] if raw.ndim == 3 else raw
            colored = self.table[np.minimum(index, len(self.table) - 1)]
            return np.ascontiguousarray(colored)
        if raw.dtype == np.bool_:
            raw = raw.astype(np.uint8)
        if raw.dtype != np.uint8:
            raise ValueError(f"samples of type {raw.dtype} need a rendering")
        if self.is_color:
            colors = raw if self.count == 3 else raw[..., :3]
        else:
            gray = raw[..., 0] if raw.ndim == 3 else raw
            gray = self._inverted(gray) if self.kind == _MIN_IS_WHITE else gray
            colors = cv2.cvtColor(np.ascontiguousarray(gray), cv2.COLOR_GRAY2RGB)
        if self.alpha is not None:
            colors = self._over_white(colors, raw[..., self.alpha][..., None])
        if self.full < 255:
            colors = np.round(np.arange(256) * (255 / self.full)).clip(0, 255).astype(np.uint8)[colors]
        return np.ascontiguousarray(colors, np.uint8)

    def _inverted(self, values: Raw) -> Raw:
        if values.dtype == np.bool_:
            return ~values
        if values.dtype.kind != "u":
            return -values
        full = values.dtype.type(self.full)
        return np.asarray(full - np.minimum(values, full))

    def _over_white(self, values: Raw, alpha: Raw) -> Raw:
        if values.dtype == np.bool_:
            return np.asarray(values | ~alpha.astype(np.bool_))
        full = self.full
        if int(alpha.min()) >= full:
            return values
        wide = np.uint64 if full <= 65535 else np.float64
        color: NDArray[Any] = values.astype(wide)
        cover: NDArray[Any] = np.minimum(alpha, full).astype(wide)
        shown = color * full if self.premultiplied else color * cover
        mixed = (shown + (full - cover) * full + full // 2) // full
        return np.asarray(np.minimum(mixed, full)).astype(values.dtype)
