"""Boxes of COCO run-length masks (`pycocotools`, `maskApi.c`): runs of 0 and 1 in turn, down the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from finetune.dataset.samples import Box

_MAX_DIGITS = 13
"""Characters of one number: 5 bits each, more than any image has px."""


def rle_box(mask: Mapping[str, object], stated: tuple[int, int]) -> Box:
    """Box (x_min, y_min, x_max, y_max) of a mask.

    Parameters
    ----------
    mask : mapping
        `size` (height, width) and `counts`: a list, or pycocotools' text.
    stated : (width, height)
        Of its image; (0, 0) where the file does not say.

    Raises
    ------
    ValueError
        The mask is damaged, empty, or of another size than its image.
    """
    size = mask.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int and 0 < v < 10**6 for v in size):
        raise ValueError(f"size of its mask is {size!a:.60}")
    height, width = size
    if 0 not in stated and stated != (width, height):
        raise ValueError(f"its mask measures {width}x{height} px, its image {stated[0]}x{stated[1]}")
    counts = mask.get("counts")
    runs = list(_decoded(counts)) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("the runs of its mask are no numbers")
    if sum(runs) != width * height:
        raise ValueError(f"its mask covers {sum(runs)} px of {width * height}")
    at, x0, y0, x1, y1 = 0, width, height, 0, 0
    for number, run in enumerate(runs):
        if number % 2 and run:
            first, last = at // height, (at + run - 1) // height
            x0, x1 = min(x0, first), max(x1, last + 1)
            if first == last:
                y0, y1 = min(y0, at % height), max(y1, (at + run - 1) % height + 1)
            else:
                y0, y1 = 0, height
        at += run
    if x1 <= x0:
        raise ValueError("its mask is empty")
    return (float(x0), float(y0), float(x1), float(y1))


def _decoded(text: str) -> Iterator[int]:
    """Numbers in groups of 5 bits, lowest first; from the fourth on each is the difference to the one two before."""
    before: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            if at >= len(text) or shift >= 5 * _MAX_DIGITS:
                raise ValueError("the runs of its mask end too early")
            code = ord(text[at]) - 48
            if not 0 <= code < 64:
                raise ValueError(f"character {text[at]!a} in the runs of its mask")
            value |= (code & 31) << shift
            at, shift = at + 1, shift + 5
            if not code & 32:
                break
        if code & 16:
            value -= 1 << shift
        if len(before) > 2:
            value += before[-2]
        before.append(value)
        yield value
