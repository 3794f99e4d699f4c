"""Genes, smoothing, thresholds, regions, tiles and scores, against numbers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scanpy", reason="needs the extra 'science'")
from hypothesis import given, settings
from hypothesis import strategies as st
from spatial_files import dark

from workflows.errors import SpatialError
from workflows.science.spatial.baseline import Ridge, picture_features, shuffled_within
from workflows.science.spatial.evaluate import correlation, rank_correlation, score_section, shuffled_control
from workflows.science.spatial.questions import ExpressionScale, region_question, spot_question, spot_tiles
from workflows.science.spatial.regions import ExpressionLevel, join_regions, otsu, smooth
from workflows.science.spatial.samples import boxes_in_tile, part_spots
from workflows.science.spatial.sections.genes import (
    ExpressionTarget,
    expression,
    find_genes,
    most_variable,
    parse_targets,
)
from workflows.science.spatial.sections.reading import read_section
from workflows.science.spatial.sections.section import pitch_of
from wsi import Tile, open_slide

SQUARE = np.array([(x * 10.0, y * 10.0) for y in range(6) for x in range(8)])


def test_genes_are_found_whatever_their_capitals(visium):
    section = read_section(visium)
    targets = find_genes(section, parse_targets(["dark1", "Both=dark2+LIGHT1"]))
    assert targets == (ExpressionTarget("DARK1", ("DARK1",)), ExpressionTarget("Both", ("DARK2", "LIGHT1")))
    values = expression(section, targets[:1])
    raw = section.counts.X.toarray()
    totals = raw.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(values[:, 0], np.log1p(raw[:, 0] / totals[:, 0] * np.median(totals)), rtol=1e-5)


def test_a_signature_is_higher_where_its_genes_are(visium):
    section = read_section(visium)
    is_dark = dark(section.places0)
    signature = parse_targets(["dark=DARK1+DARK2"])
    (score,) = expression(section, signature).T
    assert score[is_dark].min() > score[~is_dark].max()
    np.testing.assert_array_equal(score, expression(section, signature)[:, 0])
    few = section.with_counts(section.counts[:, :2].copy())
    with pytest.raises(SpatialError, match="'dark' cannot be scored on planted: among its 2 genes"):
        expression(few, signature)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CD8B"], r"Gene 'CD8B' is not among the 200 genes of planted. Nearest names: CD8A"),
        (["sig=DARK1+DARK9"], r"Gene 'DARK9'.*Nearest names: DARK"),
        (["=DARK1"], "no gene, and no signature"),
        (["A", "A"], "names a gene or signature twice"),
        (["s=A+A"], "names a gene twice"),
    ],
)
def test_a_gene_that_is_not_there_is_answered_with_the_nearest(words, message, visium):
    with pytest.raises(SpatialError, match=message):
        find_genes(read_section(visium), parse_targets(words))


def test_the_genes_that_vary_most_are_those_that_were_planted(visium):
    section = read_section(visium)
    assert {t.name for t in most_variable([section], 3, among=None)} == {"DARK1", "DARK2", "LIGHT1"}
    with pytest.raises(SpatialError, match="Only 1 of 1 genes"):
        most_variable([section], 2)  # of the marker genes, the section has CD8A alone


def test_smoothing_is_the_mean_of_neighbours_and_makes_nothing_up():
    values = np.zeros(48)
    values[9] = 9.0  # x 1, y 1: eight neighbours
    expected = np.zeros((6, 8))
    expected[:3, :3] = 1.0
    expected[0, :3] = expected[:3, 0] = 9 / 6  # at the border of six spots
    expected[0, 0] = 9 / 4
    np.testing.assert_allclose(smooth(values, SQUARE, 10.0).reshape(6, 8), expected)
    values[0] = np.nan
    smoothed = smooth(values, SQUARE, 10.0)
    assert np.isnan(smoothed[0])
    assert smoothed[1] == pytest.approx(9 / 5)
    np.testing.assert_array_equal(smooth(values, SQUARE, 10.0, rounds=0), values)


@pytest.mark.parametrize(
    ("words", "values", "threshold"),
    [
        ("median", [1, 2, 3, 4], 2.5),
        ("q0.75", [0, 1, 2, 3, 4], 3.0),
        ("otsu", [0, 0, 1, 1, 9, 10, 10], 5.0),
        ("otsu", [2, 2, 2], 2.0),
    ],
)
def test_thresholds(words, values, threshold):
    given_values = np.array([*values, np.nan], float)
    level = ExpressionLevel(words)
    assert level.of(given_values) == threshold
    assert level.high(given_values).tolist() == [bool(v > threshold) for v in given_values]


def test_spots_near_the_threshold_are_not_asked_about():
    values = np.array([5.0, 1, 2, 9, 8, 3, 7, 6, 4, 10, np.nan])
    high, clear = part_spots(values, ExpressionLevel("median"), 0.4)
    assert high.tolist() == [False, False, False, True, True, False, True, True, False, True, False]
    assert clear.tolist() == [v not in (4, 5, 6, 7) and np.isfinite(v) for v in values.tolist()]
    _, all_clear = part_spots(values, ExpressionLevel("median"), 0.0)
    assert all_clear.sum() == 10


@pytest.mark.parametrize("words", ["mean", "q1.5", "q0", "0.75", ""])
def test_an_unknown_threshold_is_refused(words):
    with pytest.raises(SpatialError, match="is no threshold"):
        ExpressionLevel(words)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_otsu_leaves_the_least_variance_within_both_groups(values):
    array = np.sort(np.array(values))
    if array[-1] - array[0] < 1e-6:
        return

    def within(cut: float) -> float:
        parts = [array[array <= cut], array[array > cut]]
        return sum(len(part) * part.var() for part in parts if len(part))

    best = min(within(cut) for cut in array[:-1])
    assert within(otsu(array)) == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_regions_are_boxes_half_a_pitch_around_their_spots():
    high = np.zeros((6, 8), bool)
    high[0:2, 0:3] = True  # six spots
    high[4, 5:8] = True  # three
    high[2, 6] = True  # one alone
    boxes, region = join_regions(high.ravel(), SQUARE, 10.0, least=3, size0=(1000, 1000))
    assert boxes.tolist() == [[0, 0, 25, 15], [45, 35, 75, 45]]
    expected = np.where(high, 0, -1)
    expected[4, 5:8], expected[2, 6] = 1, -1
    np.testing.assert_array_equal(region.reshape(6, 8), expected)
    none, nowhere = join_regions(np.zeros(48, bool), SQUARE, 10.0)
    assert none.shape == (0, 4)
    assert (nowhere == -1).all()


def test_the_pitch_is_that_of_the_lattice_even_where_spots_are_shaken(tmp_path):
    rng = np.random.default_rng(0)
    array = np.array([(x, y) for y in range(12) for x in range(12)], float)
    turned = array @ np.array([[0.0, 290.0], [-290.0, 0.0]]) + 5000
    shaken = turned + rng.normal(0, 12, turned.shape)
    assert pitch_of(shaken, tmp_path, array) == pytest.approx(290, rel=0.01)
    assert pitch_of(shaken, tmp_path) < 285  # nearest neighbours alone are biased
    with pytest.raises(SpatialError, match="needs at least three"):
        pitch_of(turned[:2], tmp_path)
    with pytest.raises(SpatialError, match="same place"):
        pitch_of(np.ones((5, 2)), tmp_path)


def test_tiles_lie_around_their_spots_and_own_disjoint_squares(visium, section_slide):
    section = read_section(visium)
    slide = open_slide(section_slide, mpp=section.um_per_px)
    table = spot_tiles(section, slide, spot_question("DARK1", ExpressionScale(mpp=2.0, tile_size=96)))
    side0 = round(96 * 2.0 / section.um_per_px)
    assert set(table["width0"]) == set(table["height0"]) == {side0}
    centre = np.column_stack([table["x0"] + side0 / 2, table["y0"] + side0 / 2])
    inner = (np.abs(centre - [slide.width / 2, slide.height / 2]) < [slide.width / 2 - side0, 400]).all(axis=1)
    assert np.abs(centre - section.places0)[inner].max() <= 0.5
    assert table["x0"].min() >= 0
    assert (table["y0"] + side0).max() <= slide.height
    cover = np.zeros((slide.height, slide.width), np.int8)
    for row in table:
        cover[row["core_y0"] : row["core_y1"], row["core_x0"] : row["core_x1"]] += 1
    assert cover.max() == 1
    with pytest.raises(SpatialError, match="Use a smaller tile"):
        spot_tiles(section, slide, spot_question("DARK1", ExpressionScale(mpp=50.0, tile_size=96)))


def test_questions_are_asked_in_the_words_of_the_samples():
    scale = ExpressionScale(0.5, 256, 4.0)
    assert spot_question("ERBB2", scale).prompt == "Is ERBB2 high here?"
    asked = region_question("CD8A", scale)
    assert asked.labels == ("high CD8A",)
    assert asked.prompt.startswith("Locate regions with high CD8A expression.")
    assert asked.mpp == 4.0


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([110, 210, 150, 250], [[5, 5, 25, 25]]),  # inside
        ([0, 0, 90, 90], []),  # outside
        ([60, 200, 180, 280], [[0, 0, 40, 40]]),  # cut at the edge
        ([0, 0, 1000, 1000], [[0, 0, 50, 50]]),  # all of the tile is within
        ([0, 200, 125, 300], None),  # a fifth of the region, a quarter of the tile: nothing right can be said
    ],
)
def test_regions_as_a_tile_shows_them(box, expected):
    tile = Tile(0, 100, 200, 100, 100, 50, 50)
    seen = boxes_in_tile(np.array([box], float), tile)
    assert (None if seen is None else seen.tolist()) == expected


def test_correlations_are_those_of_the_definition():
    a = np.array([1.0, 2, 3, 4])
    assert correlation(a, 2 * a + 1) == pytest.approx(1)
    assert correlation(a, np.array([1.0, -1, 1, -1])) == pytest.approx(-1 / np.sqrt(5))
    assert np.isnan(correlation(a, np.ones(4)))
    assert rank_correlation(a, np.array([1.0, 8, 27, 1000])) == pytest.approx(1)


def test_a_perfect_prediction_scores_one_and_a_shuffled_one_nothing():
    rng = np.random.default_rng(0)
    places = np.array([(x * 10.0, y * 10.0) for y in range(20) for x in range(20)])
    truth = np.stack([np.sin(places[:, 0] / 30), (places[:, 1] > 120) + rng.normal(0, 0.1, 400)], axis=1)
    told = truth.copy()
    told[7, 0] = np.nan  # an answer that is missing
    score = score_section("model", ["a", "b"], told, truth, places, 10.0)
    assert score.mean("pearson") == pytest.approx(1)
    assert score.targets[1].auroc == 1
    assert score.targets[0].spots == 399
    assert score.targets[1].box_f1 == 1
    control = shuffled_control(told, truth)
    assert abs(control.mean) < 0.02
    assert 0.02 < control.upper < 0.15
    with pytest.raises(SpatialError, match="do not fit"):
        score_section("model", ["a"], told, truth, places, 10.0)


def test_ridge_finds_a_linear_rule_and_a_shuffled_one_does_not():
    rng = np.random.default_rng(1)
    features = rng.normal(5, 3, (120, 6))
    values = features[:, :2] @ np.array([[1.0, -2.0], [0.5, 1.0]]) + rng.normal(0, 0.1, (120, 2))
    model = Ridge.fit(features[:80], values[:80])
    assert correlation(model.predict(features[80:])[:, 1], values[80:, 1]) > 0.99
    groups = np.repeat([0, 1], 40)
    dealt = shuffled_within(values[:80], groups, seed=0)
    np.testing.assert_allclose(np.sort(dealt[:40, 0]), np.sort(values[:40, 0]))
    wrong = Ridge.fit(features[:80], dealt).predict(features[80:])
    assert wrong[:, 1].std() < 0.3 * values[:, 1].std()  # nothing to learn: close to the mean everywhere
    assert Ridge.fit(features[:80], dealt).penalty.max() > model.penalty.max()


def test_features_see_colour_and_grain():
    flat = np.full((64, 64, 3), 128, np.uint8)
    rough = np.random.default_rng(0).integers(60, 196, (64, 64, 3)).astype(np.uint8)
    a, b = picture_features(flat), picture_features(rough)
    assert a.shape == (34,)
    assert np.isfinite(a).all()
    assert (b[18:26] > a[18:26]).all()
