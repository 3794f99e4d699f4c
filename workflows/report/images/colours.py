"""Colours of labels, the same in pictures and exports."""

from __future__ import annotations

from collections.abc import Sequence

RGBColour = tuple[int, int, int]

PALETTE: tuple[RGBColour, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (0, 114, 178),
    (240, 228, 66),
    (213, 94, 0),
    (86, 180, 233),
    (60, 60, 60),
    (0, 200, 200),
    (120, 94, 240),
    (170, 220, 50),
)
"""Told apart with most kinds of colour blindness (Okabe and Ito 2008, its pink left out) and seen on H&E."""

FAILED: RGBColour = (200, 0, 0)
"""Tiles without an answer."""

SKIPPED: RGBColour = (120, 130, 165)
"""Tiles that are not asked because of coarse tiles."""


def label_colours(labels: Sequence[str]) -> dict[str, RGBColour]:
    """One colour per label, by its position."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}
