"""Links by assignment against planted tracks, and against the naive way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.science.timelapse.linking import LinkRules, assign, link, link_nearest
from workflows.science.timelapse.measures import score_tracks
from wsi.synthetic import make_film

NONE = np.zeros((0, 4))


def box(x: float, y: float, side: float = 10.0) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def boxes(*places: tuple[float, ...]) -> np.ndarray:
    return np.array([box(*place) for place in places], float).reshape(-1, 4)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_assignment_has_the_least_cost_of_all(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.uniform(-0.3, 1.6, (rows, columns))
    a, b = np.nonzero(table < 1)
    found = assign(a, b, table[a, b])
    assert len({row for row, _ in found}) == len({column for _, column in found}) == len(found)
    cost = sum(table[pair] - 1 for pair in found)
    slots = [*range(columns), *[None] * rows]
    best = (
        min(
            sum(min(table[row, c] - 1, 0) for row, c in enumerate(chosen) if c is not None)
            for chosen in set(itertools.permutations(slots, rows))
        )
        if rows * columns <= 12
        else cost
    )
    assert cost == pytest.approx(min(best, cost))


def test_two_that_cross_keep_their_identity_where_the_nearest_would_swap() -> None:
    """Both step by 6: the second object's old place is nearest to the first one's new place."""
    film = [boxes((10 + 6 * t, 20), (18 + 6 * t, 20)) for t in range(6)]
    links = link(film, LinkRules(reach=10))
    assert [row.tolist() for row in links.tracks] == [[0, 1]] * 6
    truth = [np.array([0, 1])] * 6
    assert score_tracks(film, links, film, truth).switches == 0
    naive = link_nearest([frame[::-1] if t % 2 else frame for t, frame in enumerate(film)], 10.0)
    shuffled = [row[::-1] if t % 2 else row for t, row in enumerate(truth)]
    given_ = [frame[::-1] if t % 2 else frame for t, frame in enumerate(film)]
    assert score_tracks(given_, naive, given_, shuffled).switches > 0


@pytest.mark.parametrize(("missing", "gap", "tracks"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (1, 0, 2)])
def test_gaps(missing: int, gap: int, tracks: int) -> None:
    seen = boxes((20, 20))
    film = [seen, seen, *[NONE] * missing, seen, seen]
    links = link(film, LinkRules(reach=10, gap=gap))
    assert links.count == tracks
    assert [len(row) for row in links.tracks] == [len(frame) for frame in film]


def test_a_division_needs_two_daughters_that_last() -> None:
    before, after = boxes((50, 50, 14)), boxes((44, 50, 10), (56, 50, 10))
    film = [before] * 3 + [after] * 4
    links = link(film, LinkRules(reach=16, divisions=True))
    assert links.parents == {1: 0, 2: 0}
    assert [row.tolist() for row in links.tracks] == [[0]] * 3 + [[1, 2]] * 4
    truth = [np.array([7])] * 3 + [np.array([8, 9])] * 4
    scores = score_tracks(film, links, film, truth, {8: 7, 9: 7})
    assert (scores.division_f1, scores.link_f1, scores.switches, scores.mota) == (1, 1, 0, 1)
    # Without divisions the mother goes on as one of her daughters.
    assert link(film, LinkRules(reach=16)).count == 2
    # Seen beside it once, it is a false find and no daughter.
    once = [before] * 3 + [after, before, before, before]
    assert link(once, LinkRules(reach=16, divisions=True)).parents == {}


def test_what_is_too_far_or_too_unlike_is_another_object() -> None:
    assert link([boxes((10, 10)), boxes((40, 10))], LinkRules(reach=10)).count == 2
    assert link([boxes((10, 10, 6)), boxes((10, 10, 60))], LinkRules(reach=10)).count == 2
    assert link([NONE, NONE], LinkRules()).count == 0
    assert link([], LinkRules()).tracks == ()
    short = link([boxes((10, 10), (90, 90)), boxes((10, 10))], LinkRules(reach=10, shortest=2))
    assert [row.tolist() for row in short.tracks] == [[0, -1], [0]]


def test_many_objects_are_linked_in_groups() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 20_000, (3_000, 2))
    film = [boxes(*(places + rng.normal(0, 1, places.shape))) for _ in range(3)]
    links = link(film, LinkRules(reach=15))
    same = np.mean([np.array_equal(row, links.tracks[0]) for row in links.tracks])
    kept = np.mean(links.tracks[2] == links.tracks[0])
    assert kept > 0.995
    assert same >= 1 / 3


def test_the_factory_plants_what_it_says() -> None:
    film = make_film(2, frames=8, size=160, nuclei=6, divisions=1, arrivals=1, departures=1)
    assert film.frames.shape == (8, 160, 160, 3)
    mothers = set(film.parents.values())
    assert len(mothers) == 1
    assert len(film.parents) == 2
    mother = mothers.pop()
    last = max(t for t, row in enumerate(film.tracks) if mother in row)
    daughters = [child for child in film.parents if child in film.tracks[last + 1]]
    assert len(daughters) == 2
    centre = film.boxes[last][film.tracks[last] == mother].mean()
    near = [film.boxes[last + 1][film.tracks[last + 1] == child].mean() for child in daughters]
    assert abs(np.mean(near) - centre) < 12
    again = make_film(2, frames=8, size=160, nuclei=6, divisions=1, arrivals=1, departures=1)
    assert np.array_equal(again.frames, film.frames)


def test_linking_beats_the_nearest_neighbour_on_noisy_finds() -> None:
    film = make_film(3, frames=16, size=160, nuclei=8, speed_um=2.0, divisions=1, arrivals=1, departures=1)
    rng = np.random.default_rng(0)
    noisy = []
    for found in film.boxes:
        kept = found[rng.random(len(found)) > 0.12]
        false = np.array([box(*place, 14) for place in rng.uniform(10, 150, (rng.poisson(0.4), 2))]).reshape(-1, 4)
        noisy.append(np.concatenate([kept + rng.normal(0, 1, kept.shape), false]))
    links = link(noisy, LinkRules(shortest=2))
    ours = score_tracks(noisy, links, film.boxes, film.tracks, film.parents)
    naive = score_tracks(noisy, link_nearest(noisy, links.reach), film.boxes, film.tracks, film.parents)
    assert ours.link_f1 > naive.link_f1 + 0.02
    assert ours.switches < naive.switches
    clean = score_tracks(film.boxes, link(film.boxes, LinkRules(divisions=True)), film.boxes, film.tracks, film.parents)
    assert clean.link_f1 > 0.95
    assert clean.detection_f1 == 1


@pytest.mark.parametrize("planted", ["swap", "miss", "false"])
def test_the_measures_see_planted_faults(planted: str) -> None:
    film = [boxes((20, 20), (60, 20)) for _ in range(6)]
    truth = [np.array([0, 1])] * 6
    found = list(film)
    tracks = [np.array([0, 1]) for _ in film]
    if planted == "swap":
        tracks[3:] = [np.array([1, 0])] * 3
    if planted == "miss":
        found[2], tracks[2] = film[2][:1], np.array([0])
    if planted == "false":
        found[2], tracks[2] = np.concatenate([film[2], boxes((200, 200))]), np.array([0, 1, 2])
    links = type(link(film))(tuple(tracks), {}, 1.0)
    scores = score_tracks(found, links, film, truth)
    expected = {"swap": (2, 0, 0, 8), "miss": (0, 1, 0, 9), "false": (0, 0, 1, 10)}[planted]
    assert (scores.switches, scores.missed, scores.false, scores.links_right) == expected
