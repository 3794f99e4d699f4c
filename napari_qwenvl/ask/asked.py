"""Questions about one region: what is sent to the model, what came back, and the file that keeps both. No Qt here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_qwenvl.ask.plan import PanelQuestion, model_fields
from workflows.run.options import RunOptions

if TYPE_CHECKING:
    from wsi.slide import Slide

ASKED = "asked.jsonl"
_LONGEST_PX = 1024
_MOST_TURNS = 6
_STEP = 32
_MARGIN = 0.15
"""Shown around a lasso, as share of its side, so that the model sees where it lies."""


@dataclass(frozen=True)
class Region:
    """A part of a slide that is asked about.

    Attributes
    ----------
    rect : (x0, y0, width0, height0)
        Level-0 px, inside the slide.
    size : (width, height)
        Of the picture the model sees, in px.
    marks : tuple of dict
        Fields of `qwenvl.images.marks.Mark`, with places in level-0 px.
    """

    rect: tuple[int, int, int, int]
    size: tuple[int, int]
    marks: tuple[dict[str, object], ...] = ()

    @classmethod
    def of(
        cls,
        slide: Slide,
        outline: ArrayLike,
        *,
        mpp: float | None,
        show_outline: bool = False,
        marked: Sequence[ArrayLike] = (),
    ) -> Region:
        """The region of an outline.

        Parameters
        ----------
        outline : array (n, 2)
            Corners x0, y0 in level-0 px.
        mpp : float, optional
            Scale of the picture; coarser where the region would be larger than 1024 px. None takes level-0 px.
        show_outline : bool
            Show the outline to the model, with a margin around it.
        marked : sequence of array (n, 2)
            Outlines of things inside that are shown with numbers from 1.

        Raises
        ------
        ValueError
            The region has no area on the slide.
        """
        corners = np.asarray(outline, float)
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = _MARGIN * (high - low) if show_outline else np.zeros(2)
        low = np.clip(np.floor(low - margin), 0, [slide.width, slide.height]).astype(int)
        high = np.clip(np.ceil(high + margin), 0, [slide.width, slide.height]).astype(int)
        sides = high - low
        if sides.min() < 4:
            raise ValueError("The region has no area on the slide. Draw it over the tissue.")
        scale = 1.0 if mpp is None or slide.mpp is None else mpp / slide.mpp
        px = sides / max(scale, sides.max() / _LONGEST_PX)
        size = np.clip(np.round(px / _STEP) * _STEP, 2 * _STEP, _LONGEST_PX).astype(int)
        marks: list[dict[str, object]] = []
        if show_outline:
            marks.append({"kind": "outline", "points": corners.tolist(), "colour": "yellow"})
        for number, each in enumerate(marked, 1):
            marks.append({"kind": "outline", "points": np.asarray(each).tolist(), "colour": "red", "number": number})
        return cls((*low.tolist(), *sides.tolist()), (int(size[0]), int(size[1])), tuple(marks))  # type: ignore[arg-type]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in level-0 px."""
        x0, y0, width, height = self.rect
        return x0, y0, x0 + width, y0 + height


@dataclass(frozen=True)
class RegionQuestion:
    """A question about a region with its answer, as `asked.jsonl` keeps them, one per line."""

    question: str
    region: Region
    answer: dict[str, Any]
    """As `ask_region` gives it; objects in level-0 px."""
    model: str
    request: dict[str, Any]
    who: str
    time: str
    turns: int = 0
    """How many earlier questions and answers the model was shown before this one."""

    @property
    def turn(self) -> tuple[str, str] | None:
        """The words that were asked and what the model wrote, its thoughts left out; None where it gave no answer."""
        if self.answer["status"] == "failed":
            return None
        words = (self.answer.get("raw") or "").rpartition("</think>")[2].strip() or (self.answer["text"] or "").strip()
        return (self.question, words) if words else None

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What the answer points at: 'label', 'box' in level-0 px, 'point', 'score'."""
        return list(self.answer["objects"])

    @property
    def words(self) -> str:
        """The answer in words; where it is nothing but a list of places, their number."""
        text = (self.answer["text"] or "").strip()
        if self.answer["status"] == "failed":
            return f"No answer: {self.answer['error']}"
        counts: dict[str, int] = {}
        for each in self.objects:
            counts[each["label"]] = counts.get(each["label"], 0) + 1
        places = ", ".join(f"{number} {label}" for label, number in counts.items())
        if text.startswith(("[", "{")):
            text = ""
        if not text and not places:
            return "Nothing of the kind." if self.answer["status"] in ("ok", "empty") else self.answer["status"]
        return f"{text} ({places})" if text and places else text or places

    def boxes(self) -> NDArray[np.float64]:
        """Boxes (n, 4) in level-0 px."""
        return np.array([each["box"] for each in self.objects], float).reshape(-1, 4)


def turns_before(asked: Sequence[RegionQuestion], region: Region, model: str) -> list[tuple[str, str]]:
    """What was asked about the same picture last, oldest first: what a further question follows up."""
    found: list[tuple[str, str]] = []
    for each in reversed(asked):
        if (each.region, each.model) != (region, model) or len(found) == _MOST_TURNS:
            break
        if each.turn is not None:
            found.append(each.turn)
    return found[::-1]


def ask_command(
    slide: Path,
    region: Region,
    words: str,
    options: RunOptions,
    mpp: float | None,
    turns: Sequence[tuple[str, str]] = (),
) -> dict[str, object]:
    """What `Worker.ask` takes for a question in words about a region, after `turns` of question and answer."""
    request = PanelQuestion("ask", prompt=words, options=options).request({"mpp": mpp, "tile_size": max(region.size)})
    return {
        "slide": str(slide),
        "model": model_fields(options),
        "region": region.rect,
        "size": region.size,
        "marks": list(region.marks),
        "turns": [list(turn) for turn in turns],
        "request": request.model_dump(mode="json"),
    }


def keep(folder: Path, asked: RegionQuestion) -> None:
    """Add a question and its answer to the file of a slide."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ASKED).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(asked), ensure_ascii=False) + "\n")


def kept(folder: Path) -> list[RegionQuestion]:
    """What was asked before, oldest first; a line that was cut off by a crash is left out."""
    found = []
    path = folder / ASKED
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            region = entry.pop("region")
            found.append(
                RegionQuestion(
                    region=Region(tuple(region["rect"]), tuple(region["size"]), tuple(region["marks"])), **entry
                )
            )
        except (ValueError, TypeError, KeyError):
            continue
    return found
