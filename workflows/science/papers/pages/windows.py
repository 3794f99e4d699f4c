"""Windows: pages that are asked about together, as many as the context holds, neighbours overlapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwenvl.answer import Answer, Status
from workflows.science.papers.pages.document import DocumentError


@dataclass(frozen=True, slots=True)
class PageWindow:
    """Pages of one question.

    Attributes
    ----------
    index : int
        Its number in the run; the halves of window w of n are n + 4 w and n + 4 w + 1, as of tiles that are split.
    first, count : int
        Place of the first page in the run's list of pages, and how many follow each other.
    """

    index: int
    first: int
    count: int

    @property
    def key(self) -> str:
        """What the journal knows it by."""
        return str(self.index)

    def of(self, pages: Sequence[int]) -> tuple[int, ...]:
        """Page numbers, given those of the run."""
        return tuple(pages[self.first : self.first + self.count])

    def halves(self, roots: int, overlap: int) -> tuple[PageWindow, PageWindow]:
        """Two windows in place of this one; with three pages or more they share a page, if windows do."""
        half = -(-self.count // 2)
        back = min(overlap, 1) if self.count > 2 else 0
        child = roots + 4 * self.index
        return (
            PageWindow(child, self.first, half),
            PageWindow(child + 1, self.first + half - back, self.count - half + back),
        )


def plan_windows(tokens: Sequence[int], room: int, *, most: int, overlap: int) -> list[PageWindow]:
    """Lay windows over pages.

    Parameters
    ----------
    tokens : sequence of int
        Of each page, its name included.
    room : int
        Tokens that the pages of one window may take together.
    most : int
        Most pages of a window.
    overlap : int
        Pages that a window shares with the one before; fewer where more would leave no page for it alone.

    Returns
    -------
    list of PageWindow
        Every page is in one at least.

    Raises
    ------
    DocumentError
        A page alone does not fit.
    """
    large = max(tokens, default=0)
    if large > room:
        raise DocumentError(
            f"a page takes {large:,} tokens and the context leaves room for {max(room, 0):,}: give a lower --dpi, a "
            "larger --context (if the model has it), or a smaller --max-new-tokens"
        )
    windows: list[PageWindow] = []
    first = 0
    while first < len(tokens):
        stop, used = first, 0
        while stop < len(tokens) and stop - first < most and used + tokens[stop] <= room:
            used += tokens[stop]
            stop += 1
        windows.append(PageWindow(len(windows), first, stop - first))
        if stop == len(tokens):
            break
        # The next one must reach beyond this one, or the same pages would be asked about again.
        begin = max(stop - overlap, first + 1)
        while begin < stop and (stop - begin >= most or sum(tokens[begin : stop + 1]) > room):
            begin += 1
        first = begin
    return windows


def parted(answer: Answer | None, window: PageWindow) -> bool:
    """Whether the answer about a window was cut off, so that its halves take its place."""
    return answer is not None and answer.status is Status.TRUNCATED and window.count > 1


def windows_of(
    planned: Sequence[PageWindow], answers: Mapping[str, Answer], overlap: int, roots: int | None = None
) -> Iterator[PageWindow]:
    """The windows of a run as it stands: those planned, with halves in place of those that were cut off.

    Parameters
    ----------
    planned : sequence of PageWindow
    answers : mapping
        By `PageWindow.key`.
    overlap : int
        Pages that neighbouring windows share.
    """
    roots = len(planned) if roots is None else roots
    for window in planned:
        if parted(answers.get(window.key), window):
            yield from windows_of(window.halves(roots, overlap), answers, overlap, roots)
        else:
            yield window
