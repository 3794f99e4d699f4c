"""Quality control in a run: flagged tiles are skipped or marked, counted with their area, and never hidden."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from run_helpers import CountingEngine, MemorySlide, request_of

from qwenvl.answer import Status
from qwenvl.request import Task
from workflows.errors import RunMismatchError
from workflows.report.report import Report
from workflows.run.quality import QualitySettings, excluded, quality_facts, reasons_of
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore
from wsi.pixels.quality import TileQuality
from wsi.slide import RGB


class Spoilt(MemorySlide):
    """The left third is out of focus, and a blue stroke of felt pen crosses the lower right."""

    def _read(self, x: int, y: int, width: int, height: int, level: int) -> RGB:
        of = self.levels[level]
        picture = super()._read(x, y, width, height, level)
        soft = cv2.GaussianBlur(picture, (0, 0), 6)
        xx, yy = np.arange(x, x + width) / of.width, np.arange(y, y + height) / of.height
        picture = np.where((xx < 0.4)[None, :, None], soft, picture)
        pen = (xx > 0.6)[None, :] & (yy > 0.6)[:, None]
        return np.where(pen[..., None], [40, 60, 170], picture).astype(np.uint8)


def test_skipped_tiles_are_excluded_not_negative(tmp_path: Path) -> None:
    engine, request = CountingEngine(), request_of(Task.DETECT, tile_size=96, overlap=0)
    settings = QualitySettings(mode="skip")
    result = run_slide(Spoilt(), request, engine, tmp_path / "run", mask="all", quality=settings)
    report = result.report
    quality = report.quality
    assert quality is not None
    counts = report.tiles.counts
    assert counts.excluded == quality.flagged > 0
    assert len(engine.asked) == report.tiles.total - counts.excluded
    assert report.complete, "what was not to be asked is not missing"
    assert report.tiles.tissue_answered < 1
    assert any(f"{counts.excluded} tiles excluded by quality control" in words for words in report.warnings)
    by_reason = {each.reason: each for each in quality.reasons}
    assert by_reason["blur"].tiles >= 8
    assert by_reason["pen"].tiles >= 4
    assert by_reason["pen"].tissue_mm2 == pytest.approx(by_reason["pen"].tissue_px0 * 0.25e-6)
    with RunStore.open(tmp_path / "run") as store:
        tiles = store.tiles()
        for found in store.iter_answers():
            if found.answer.status is not Status.EXCLUDED:
                assert reasons_of(found.answer.notes) == set()
                continue
            assert found.objects == 0
            row = tiles[found.tile]
            if "pen" in reasons_of(found.answer.notes):
                assert row["x0"] + row["width0"] > 0.6 * 1000
                assert row["y0"] + row["height0"] > 0.6 * 760
    # The densities are those of what was looked at.
    assert report.results.task == "detect"
    assert report.tiles.tissue_answered == pytest.approx(1 - quality.share, abs=1e-6)


def test_marked_tiles_are_asked_and_counted_the_same(tmp_path: Path) -> None:
    request = request_of(Task.COUNT, tile_size=96, overlap=0)
    for mode in ("skip", "mark"):
        run_slide(
            Spoilt(),
            request,
            CountingEngine(),
            tmp_path / mode,
            mask="all",
            quality=QualitySettings.of_words(mode, ["pen=0.05", "glass=off"]),
        )
    skipped, marked = (Report.read(tmp_path / mode) for mode in ("skip", "mark"))
    assert marked.tiles.counts.excluded == 0
    assert skipped.quality is not None
    assert marked.quality is not None
    assert marked.quality.reasons == skipped.quality.reasons
    assert marked.quality.settings.least_tissue is None
    flags = marked.run_options()
    assert (flags["qc"], flags["qc_limit"][:3]) == ("mark", ["glass=off", "blur=0.37", "pen=0.05"])
    assert QualitySettings.of_words(flags["qc"], flags["qc_limit"]) == marked.quality.settings


def test_other_limits_are_another_run(tmp_path: Path) -> None:
    request = request_of(Task.SCORE)
    run_slide(MemorySlide(), request, CountingEngine(), tmp_path / "run", quality=QualitySettings(mode="mark"))
    for other in (None, QualitySettings(mode="skip"), QualitySettings(mode="mark", least_focus=0.2)):
        with pytest.raises(RunMismatchError, match="quality control"):
            run_slide(MemorySlide(), request, CountingEngine(), tmp_path / "run", quality=other)
    again = run_slide(MemorySlide(), request, CountingEngine(), tmp_path / "run", quality=QualitySettings(mode="mark"))
    assert again.asked == 0


def test_off_changes_nothing(tmp_path: Path) -> None:
    request = request_of(Task.SCORE)
    plain = run_slide(MemorySlide(), request, CountingEngine(), tmp_path / "a").report
    off = run_slide(MemorySlide(), request, CountingEngine(), tmp_path / "b", quality=QualitySettings()).report
    assert plain.result() == off.result()
    assert plain.quality is None


@pytest.mark.parametrize(
    ("measured", "flags"),
    [
        ((1.0, 0.5, 0.0, 0.0, 0.0), set()),
        ((0.01, float("nan"), 0.0, float("nan"), 0.0), {"glass"}),
        ((1.0, 0.36, 0.11, 0.16, 0.21), {"blur", "pen", "fold", "saturation"}),
        ((float("nan"),) * 5, set()),
    ],
)
def test_flags(measured: tuple[float, ...], flags: set[str]) -> None:
    settings = QualitySettings(mode="mark")
    assert set(settings.flags(TileQuality(*measured))) == flags
    none = QualitySettings(
        mode="mark", least_tissue=None, least_focus=None, most_pen=None, most_fold=None, most_saturation=None
    )
    assert none.flags(TileQuality(*measured)) == {}


def test_facts_and_words() -> None:
    notes = (("quality:blur=0.2", "fence"), (), ("quality:pen=0.4", "quality:blur=0.1"))
    facts = quality_facts(QualitySettings(mode="mark"), notes, np.array([10.0, 30.0, 20.0]), None)
    assert (facts.inspected, facts.flagged, facts.share) == (3, 2, 0.5)
    assert {each.reason: (each.tiles, each.tissue_px0) for each in facts.reasons if each.tiles} == {
        "blur": (2, 30.0),
        "pen": (1, 20.0),
    }
    assert excluded(("quality:fold=0.3",)).error == "quality control: fold"
    for wrong in (("sometimes", ()), ("mark", ("blurr=1",)), ("mark", ("pen=2",)), ("mark", ("pen=x",))):
        with pytest.raises(ValidationError):
            QualitySettings.of_words(*wrong)
