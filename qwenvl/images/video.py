"""Pictures that follow each other in time or depth, and how each family is told when or how deep each was taken.

Qwen2-VL knows the order of frames alone, Qwen2.5-VL the time through temporal positions (`tokens_per_second` of them
per second), Qwen3-VL and later read a stamp such as `<1.5 seconds>` before each frame. Every frame is one visual block
of its own: the families merge two neighbouring frames of a video, and a frame of a time-lapse, minutes away from the
next, is instead paired with itself, so that stamp and places belong to that very frame.

Sources: transformers 5.23 `Qwen3VLProcessor.replace_video_token` and `Qwen2_5_VLModel.get_rope_index`. The stamps
replace the template's whole `<|vision_start|><|video_pad|><|vision_end|>`, as in the makers' first release
(transformers 4.57); 5.23 leaves an outer pair of markers around them, which no checkpoint was trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qwenvl.errors import RequestError

UNITS = ("seconds", "minutes", "hours", "um")
"""What stamps can be given in; the families were trained with seconds."""

_MOST_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class FrameTimestamps:
    """When, or how deep, each picture of a film was taken.

    Attributes
    ----------
    values : tuple of float
        Rising, one per picture.
    unit : str
        One of `UNITS`. A family that is told by positions counts one unit as one of its seconds.

    Raises
    ------
    RequestError
        Fewer than two values, values that do not rise, or another unit.

    Examples
    --------
    >>> Stamps((0.0, 0.5, 4.0)).texts
    ('<0.0 seconds>', '<0.5 seconds>', '<4.0 seconds>')
    """

    values: tuple[float, ...]
    unit: str = "seconds"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise RequestError(f"stamps in {self.unit!r}: choose from {', '.join(UNITS)}")
        if len(self.values) < 2:
            raise RequestError("a film needs at least two pictures; ask about one picture as a picture")
        if not all(math.isfinite(value) for value in self.values):
            raise RequestError(f"stamps {self.values}: every one must be a finite number of {self.unit}")
        if any(later <= earlier for earlier, later in zip(self.values, self.values[1:], strict=False)):
            raise RequestError(f"stamps {self.values[:6]}...: they must rise from picture to picture")

    @property
    def step(self) -> float:
        """Least distance of two neighbours."""
        return min(later - earlier for earlier, later in zip(self.values, self.values[1:], strict=False))

    @property
    def decimals(self) -> int:
        """Digits after the point: one, as the families write it; more where a tenth of a step needs them."""
        return next((n for n in range(1, _MOST_DECIMALS) if 0.5 * 10**-n <= self.step / 10), _MOST_DECIMALS)

    def number(self, value: float) -> str:
        """A stamp's number as it is written."""
        return f"{value:.{self.decimals}f}"

    @property
    def texts(self) -> tuple[str, ...]:
        """The stamp before each picture."""
        return tuple(f"<{self.number(value)} {self.unit}>" for value in self.values)

    def positions(self, tokens_per_second: float) -> tuple[int, ...]:
        """Temporal position of each picture, counted from the first.

        For frames at even distances these are the positions that transformers gives a video with this
        `second_per_grid_ts`; uneven ones, which it has no word for, follow the same rule.
        """
        first = self.values[0]
        # Rounded before it is cut: 0.3 s at 10 per second is position 3, not 2.9999999.
        return tuple(math.floor(round((value - first) * tokens_per_second, 6)) for value in self.values)
