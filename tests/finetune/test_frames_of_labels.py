"""Labels drawn in QuPath on a slide that it crops become training samples of the pixels they were drawn on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bounded_slide import BOUNDS, DOT, DOTS, OFFSET, SIZE, write_scn
from typer.testing import CliRunner

from finetune.dataset.build import BuildOptions, build_dataset
from finetune.dataset.samples import Dataset
from qwenvl.cli import load_commands
from wsi import FrameError, FrameNeededError, open_slide

AREA = "ROI"


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_scn(tmp_path / "a.scn")


def ring(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def labels(path: Path, offset: tuple[int, int] = (0, 0), head: Any = None) -> Path:
    """The squares, a point in the first, and an area around what was scanned, in px of the scanned area + offset."""
    dx, dy = offset
    rows = [
        ("dot", {"type": "Polygon", "coordinates": [ring(x + dx, y + dy, x + dx + DOT, y + dy + DOT)]}) for x, y in DOTS
    ]
    rows.append(("dot", {"type": "Point", "coordinates": [DOTS[0][0] + dx + 3, DOTS[0][1] + dy + 4.5]}))
    rows.append((AREA, {"type": "Polygon", "coordinates": [ring(dx, dy, SIZE[0] + dx, SIZE[1] + dy)]}))
    features = [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for name, geometry in rows
    ]
    start = {} if head is None else {"qwenvl": head}
    path.write_text(json.dumps({"type": "FeatureCollection", **start, "features": features}))
    return path


def built(path: Path, slide: Path, **options: Any) -> Dataset:
    return build_dataset("d", [(path, slide)], BuildOptions(exhaustive="areas", area_names=(AREA,), **options))


CASES = {
    "said": ((0, 0), None, "qupath"),
    "recorded": ((0, 0), {"frame": "qupath", "bounds": list(BOUNDS)}, None),
    "whole slide, said": (OFFSET, None, "level0"),
    "whole slide, recorded": (OFFSET, {"frame": "level0", "bounds": list(BOUNDS)}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_labels_and_areas_lie_on_the_pixels_they_were_drawn_on(slide: Path, tmp_path: Path, case: str) -> None:
    offset, head, frame = CASES[case]
    data = built(labels(tmp_path / "q.geojson", offset, head), slide, frame=frame)
    x, y = OFFSET
    assert [label.box for label in data.labels if not label.is_point] == [
        (x + a, y + b, x + a + DOT, y + b + DOT) for a, b in DOTS
    ]
    assert data.labels[-1].box[:2] == (x + DOTS[0][0] + 3, y + DOTS[0][1] + 4.5)
    assert data.areas[0].ring == ((x, y), (x + SIZE[0], y), (x + SIZE[0], y + SIZE[1]), (x, y + SIZE[1]))
    assert not data.refused
    with open_slide(slide) as opened:
        for label in data.labels[: len(DOTS)]:
            x0, y0, x1, y1 = (round(edge) for edge in label.box)
            assert opened.read(x0, y0, x1 - x0, y1 - y0).max() == 20
        # the fault: the same numbers as px of the whole slide are no square
        x0, y0 = DOTS[0]
        assert opened.read(x0, y0, DOT, DOT).min() > 100


@pytest.mark.parametrize(
    ("head", "frame", "kind", "words"),
    [
        (None, None, FrameNeededError, "--frame qupath"),
        ({"frame": "qupath", "bounds": list(BOUNDS)}, "level0", FrameError, "--frame says"),
        ({"frame": "qupath", "bounds": [1, 2, 3, 4]}, None, FrameError, "another slide or scan"),
        ({"frame": "there"}, None, FrameError, "not known"),
    ],
)
def test_it_is_asked_and_never_assumed(
    slide: Path, tmp_path: Path, head: Any, frame: str | None, kind: type[Exception], words: str
) -> None:
    path = labels(tmp_path / "q.geojson", head=head)
    with pytest.raises(kind, match=words):
        built(path, slide, frame=frame)


def test_the_command_takes_the_answer(slide: Path, tmp_path: Path) -> None:
    path = labels(tmp_path / "q.geojson")
    words = ["dataset", "build", tmp_path / "d", "-l", path, "-i", slide, "--area-class", AREA]
    asked = CliRunner().invoke(load_commands(), [str(word) for word in words])
    assert asked.exit_code == 1
    assert "--frame qupath" in asked.output
    made = CliRunner().invoke(load_commands(), [*map(str, words), "--frame", "qupath"])
    assert made.exit_code == 0
    assert Dataset.open(tmp_path / "d").labels[0].box[:2] == (OFFSET[0] + DOTS[0][0], OFFSET[1] + DOTS[0][1])
