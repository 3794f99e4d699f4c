"""Which frames are shown, and what an answer about when means in frames."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import validate

from qwenvl.images.video import FrameTimestamps
from workflows.errors import StackError
from workflows.science.timelapse.sampling import frame_size, frames_in_budget, sample_frames
from workflows.science.timelapse.stack import parse_step
from workflows.science.timelapse.when import parse_ranges, range_schema, ranges_where

SECONDS = FrameTimestamps((0.0, 1.5, 3.0, 10.0, 60.0, 90.0))
FRAMES = (0, 3, 6, 20, 120, 180)


@pytest.mark.parametrize(
    ("answer", "spans", "notes"),
    [
        ({"ranges": [{"start": "1.5", "end": "10.0"}]}, [(3, 20)], []),
        ({"ranges": []}, [], []),
        ({"start": 1.5, "end": 3}, [(3, 6)], []),
        ([[1.5, 3.0], [60, 90]], [(3, 6), (120, 180)], []),
        ([1.5, 3.0], [(3, 6)], []),
        ('{"ranges": [{"start": "3.0", "end": "1.5"}]}', [(3, 6)], ["swapped"]),
        ("It lasts from 1.5 to 10 seconds.", [(3, 20)], []),
        ("<1.5 seconds> - <3.0 seconds>", [(3, 6)], []),
        ("between 0:01 and 1:30", [(3, 180)], []),
        ("from 1 min until 1.5 min", [(120, 180)], []),
        ("It appears at 10.0 seconds.", [(20, 20)], []),
        ("At 1:00 it divides, and again at 1:30.", [(120, 120), (180, 180)], []),
        ("3 s\u201310 s and 60 s to 90 s", [(6, 20), (120, 180)], []),
        ("from 4 to 9 seconds", [], ["outside"]),
        ("500 to 900 seconds", [], ["outside"]),
        ("never", [], []),
        ("The cell has 2 nuclei.", [], []),
        ({"ranges": "all"}, [], []),
    ],
)
def test_answers(answer: Any, spans: list[tuple[int, int]], notes: list[str]) -> None:
    ranges, found = parse_ranges(answer, SECONDS, FRAMES)
    assert [(each.first, each.last) for each in ranges] == spans
    assert found == notes


def test_depth_and_minutes_are_read_in_their_own_unit() -> None:
    depth = FrameTimestamps((0.0, 0.5, 1.0, 1.5), "um")
    assert [(r.first, r.last) for r in parse_ranges("from 500 nm to 1 um", depth, range(4))[0]] == [(1, 2)]
    minutes = FrameTimestamps((0.0, 5.0, 10.0), "minutes")
    assert [(r.first, r.last) for r in parse_ranges("300 s to 10 min", minutes, range(3))[0]] == [(1, 2)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=4))
def test_ranges_of_the_schema_come_back_as_their_frames(spans: list[tuple[int, int]]) -> None:
    written = [SECONDS.number(value) for value in SECONDS.values]
    said = {"ranges": [{"start": written[min(s)], "end": written[max(s)]} for s in spans]}
    validate(said, range_schema(SECONDS))
    ranges, notes = parse_ranges(json.dumps(said), SECONDS, FRAMES)
    assert not notes
    covered = {k for r in ranges for k in range(FRAMES.index(r.first), FRAMES.index(r.last) + 1)}
    assert covered == {k for s in spans for k in range(min(s), max(s) + 1)}
    assert all(a.last < b.first for a, b in pairwise(ranges))


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    for each in parse_ranges(text, SECONDS, FRAMES)[0]:
        assert each.first in FRAMES
        assert each.first <= each.last


@pytest.mark.parametrize(
    ("scores", "bridge", "spans"),
    [
        ([0, 0.9, 0.8, 0, 0, 0.7], 1, [(1, 2), (5, 5)]),
        ([0.9, 0, 0.9, 0, 0, 0.9], 1, [(0, 2), (5, 5)]),
        ([0.9, 0, 0.9], 0, [(0, 0), (2, 2)]),
        ([0.9, np.nan, 0.9], 1, [(0, 2)]),
        ([np.nan, np.nan], 1, []),
        ([], 1, []),
    ],
)
def test_scores_become_ranges(scores: list[float], bridge: int, spans: list[tuple[int, int]]) -> None:
    n = len(scores)
    ranges = ranges_where(scores, [float(k) for k in range(n)], range(n), bridge=bridge)
    assert [(each.first, each.last) for each in ranges] == spans


def test_frames_are_dense_where_things_change() -> None:
    changes = np.ones(199)
    changes[120:126] = 15.0
    chosen = sample_frames(changes, 16)
    assert len(chosen) == len(set(chosen)) == 16
    assert (chosen[0], chosen[-1]) == (0, 199)
    assert sum(118 <= frame <= 128 for frame in chosen) >= 6
    quiet = sample_frames(np.ones(199), 16)
    assert max(np.diff(quiet)) <= 14


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.integers(2, 70))
def test_any_changes_give_that_many_rising_frames(changes: list[float], count: int) -> None:
    chosen = sample_frames(changes, count)
    assert len(chosen) == min(count, len(changes) + 1)
    assert all(b > a for a, b in pairwise(chosen))
    assert (chosen[0], chosen[-1]) == (0, len(changes))


def test_the_budget_pays_for_whole_frames() -> None:
    size = frame_size(2000, 1000, 448, 32)
    assert size == (448, 224)
    assert frames_in_budget(size, 32, 1100) == 10
    with pytest.raises(StackError, match="too small for two frames"):
        frames_in_budget(size, 32, 200)


@pytest.mark.parametrize(
    ("text", "axis", "value"),
    [("30s", "t", 30.0), ("5 min", "t", 300.0), ("2h", "t", 7200.0), (1.5, "t", 1.5), ("250nm", "z", 0.25)],
)
def test_steps(text: str | float, axis: str, value: float) -> None:
    assert parse_step(text, axis) == pytest.approx(value)


@pytest.mark.parametrize(("text", "axis"), [("fast", "t"), ("0s", "t"), ("-3", "t"), ("5um", "t"), ("5min", "z")])
def test_steps_that_are_none(text: str, axis: str) -> None:
    with pytest.raises(StackError, match="no step"):
        parse_step(text, axis)
