"""Resolution by content: within the budget, fine where there is most to see, coarse elsewhere, all tissue covered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dots import SIDE, DotEngine, DotSlide, boxes_of, found_once, planted
from jsonschema import Draft202012Validator
from run_helpers import CountingEngine, MemorySlide, request_of

from qwenvl.errors import RequestError
from qwenvl.request import Request, Task
from workflows.errors import RunMismatchError
from workflows.report.images.heatmap import read_heatmap
from workflows.report.report import Report, report_schema
from workflows.run.plan.budget import plan_tiles
from workflows.run.slide import plan_run, run_slide
from workflows.store.run_store import RunStore
from wsi.grid import TileGrid
from wsi.pixels.content import ContentMap
from wsi.synthetic import Scene, write_slide
from wsi.tissue import TissueMask

TOKENS = 50


def asked(budget: int | None, **fields: object) -> Request:
    wanted = {"labels": ("dot",), "tile_size": 96, "overlap": 24, "token_budget": budget}
    return request_of(Task.DETECT, **{**wanted, **fields})


@pytest.fixture(scope="module")
def slide() -> DotSlide:
    places = planted(150, 7)
    return DotSlide(places[places[:, 0] < 330])


@pytest.mark.parametrize("tiles", [14, 20, 45, 80, 130])
def test_plans_keep_to_the_budget_and_own_every_px_once(tiles: int, slide: DotSlide) -> None:
    mask = TissueMask.everything(slide)
    grid, table, facts = plan_tiles(slide, asked(tiles * TOKENS), mask, TOKENS)
    assert len(table) <= tiles
    assert facts.tokens == len(table) * TOKENS <= facts.token_budget
    assert len(table) > tiles - 4 or len(table) * TOKENS == facts.uniform_tokens, "the budget is used"
    owned = np.zeros((slide.height, slide.width), int)
    for row in table:
        owned[row["core_y0"] : row["core_y1"], row["core_x0"] : row["core_x1"]] += 1
    assert (owned == 1).all()
    assert (np.diff(table["tile"]) > 0).all()
    assert facts.roots == len(grid)
    again = plan_tiles(slide, asked(tiles * TOKENS), mask, TOKENS)
    assert np.array_equal(table, again[1])


def test_the_finest_tiles_lie_where_most_is_to_be_seen(slide: DotSlide) -> None:
    _, table, _ = plan_tiles(slide, asked(40 * TOKENS), TissueMask.everything(slide), TOKENS)
    finest = table[table["width0"] == table["width0"].min()]
    coarsest = table[table["width0"] == table["width0"].max()]
    assert (finest["x0"] < 330).all(), "all squares lie on the left"
    assert coarsest["x0"].max() > 500


def test_a_budget_for_everything_is_the_plain_grid(slide: DotSlide, tmp_path: Path) -> None:
    plain = run_slide(slide, asked(None), DotEngine(100), tmp_path / "a", mask="all", overview=False).report
    rich = run_slide(slide, asked(10**6), DotEngine(100), tmp_path / "b", mask="all", overview=False).report
    assert rich.plan is not None
    assert rich.plan.statistic.startswith("none")
    assert rich.results == plain.results
    assert rich.tiles == plain.tiles


def test_a_budget_too_small_says_what_is_needed(slide: DotSlide) -> None:
    with pytest.raises(RequestError, match=r"allows 0 tiles.*Raise --token-budget"):
        plan_tiles(slide, asked(TOKENS - 1), TissueMask.everything(slide), TOKENS)
    silent = CountingEngine()
    silent.prompt_tokens = lambda request: None  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(RequestError, match="does not say how many tokens"):
        plan_run(slide, asked(1000), silent, mask="all")


def test_a_run_within_a_budget_says_what_was_seen_at_which_scale(slide: DotSlide, tmp_path: Path) -> None:
    engine = DotEngine(200)
    request = asked(60 * TOKENS)
    report = run_slide(slide, request, engine, tmp_path / "run", mask="all").report
    assert report.complete
    assert found_once(boxes_of(tmp_path / "run"), slide.places)[0] >= 0.9 * len(slide.places)
    assert report.plan is not None
    assert report.run.prompt_tokens == report.plan.tokens <= report.plan.token_budget < report.plan.uniform_tokens
    scales = report.tiles.scales
    assert len(scales) == 3
    assert [scale.mpp for scale in scales] == pytest.approx([0.5, 1.0, 2.0], rel=0.15)
    assert sum(scale.tissue_px0 for scale in scales) == pytest.approx(slide.width * slide.height)
    assert report.results.labels[0].per_mm2 == pytest.approx(  # type: ignore[union-attr]
        report.results.total / (slide.width * slide.height * 0.25e-6)  # type: ignore[union-attr]
    )
    assert any("looked at more coarsely" in warning for warning in report.warnings)
    assert read_heatmap(tmp_path / "run").cell0[0] <= 96
    Draft202012Validator(json.loads(report_schema())).validate(json.loads(report.to_json()))
    with pytest.raises(RunMismatchError):
        run_slide(slide, asked(59 * TOKENS), engine, tmp_path / "run", mask="all")


def test_an_interrupted_run_within_a_budget_ends_in_the_same_report(slide: DotSlide, tmp_path: Path) -> None:
    request = asked(45 * TOKENS, split=1, crowded=6)
    calm = run_slide(slide, request, DotEngine(6), tmp_path / "a", mask="all", overview=False).report
    asked_in_all = 0
    for limit in (7, 1, 30, None):
        engine = DotEngine(6, batch=(limit or 5) % 4 + 1)
        part = run_slide(slide, request, engine, tmp_path / "b", mask="all", overview=False, limit=limit)
        asked_in_all += len(engine.asked)
    assert part.report.result() == calm.result()
    assert asked_in_all == calm.run.asked
    assert calm.tiles.split is not None


def test_a_slide_without_a_scale_takes_its_own_pixels(tmp_path: Path) -> None:
    slide = MemorySlide(mpp=None)
    request = asked(30 * TOKENS, mpp=None)
    report = run_slide(slide, request, DotEngine(100), tmp_path / "run", mask="all", overview=False).report
    assert report.plan is not None
    assert report.plan.finest_mpp is None
    assert {scale.mpp for scale in report.tiles.scales} == {None}
    with RunStore.open(tmp_path / "run") as store:
        table = store.tiles()
        assert len(np.unique(np.rint(np.log2(table["width0"] / table["width"])))) > 1
    assert Report.read(tmp_path / "run") == report


def test_the_content_map_follows_the_planted_nuclei(tmp_path: Path) -> None:
    from scipy.stats import spearmanr

    from workflows.review.compare import read_truth_boxes
    from wsi import open_slide

    written = write_slide(tmp_path / "s.svs", Scene(500, 500, seed=3), mpp=0.5, downsamples=(1, 4))
    assert written.truth is not None
    boxes, _ = read_truth_boxes(written.truth)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    with open_slide(written.path) as opened:
        mask = TissueMask.from_slide(opened)
        content = ContentMap.from_slide(opened, mask)
        grid = TileGrid.from_slide(opened, tile_size=128, mpp=0.5, mask=mask)
    number = [((centres >= rect[:2]) & (centres < rect[2:])).all(axis=1).sum() for rect in grid.rects]
    assert spearmanr(number, content.total(grid.rects)).statistic > 0.85
    assert content.total([[0, 0, 8, 8]])[0] == 0, "glass holds nothing"
    assert content.total([[0, 0, 1000, 1000]])[0] == pytest.approx(content.values.sum(), rel=1e-5)


def test_the_estimate_counts_tiles_by_scale(slide: DotSlide) -> None:
    estimate = plan_run(slide, asked(60 * TOKENS), DotEngine(100), mask="all")
    assert sum(scale.tiles for scale in estimate.scales) == estimate.tiles
    assert estimate.prompt_tokens == estimate.tiles * TOKENS <= 60 * TOKENS
    assert SIDE < 96
