"""Batches: every slide alone, resumed by tile, other runs refused, and a status that the journals tell."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cohort_helpers import plan_of, run_cohort, study_of, threads

from workflows.cohort import cohort_status, write_summary
from workflows.cohort.folder import AtWork, BatchFolder, CalledOff
from workflows.cohort.run import CohortResult, Quiet
from workflows.cohort.study.check import Checked
from workflows.cohort.workers.parts import merge_parts_of
from workflows.cohort.workers.ticket import SlideOutcome, Ticket
from workflows.cohort.workers.work import close_engine, run_ticket
from workflows.errors import FolderNotWritableError, ForeignFolderError, RunLockedError, StoreFullError
from workflows.report.report import Report
from workflows.store.run_store import RunStore
from wsi.synthetic import Scene, write_slide

IDS = ("one", "two", "three")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(IDS):
        write_slide(folder / f"{name}.svs", Scene(110, 110, seed), mpp=0.25, downsamples=(1, 4), truth=False)
    return folder


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Threads in place of a cluster; a fresh engine, and a log of what it was asked."""
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.setenv("COHORT_LOG", str(tmp_path / "asked"))
    monkeypatch.delenv("COHORT_TOLD", raising=False)
    close_engine()


def table(folder: Path, slides: Path, rows: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("slide,id,mpp,mask,group,site\n" + rows.replace("@", f"{slides}/"))
    return path


def asked(folder: Path) -> int:
    log = folder / "asked"
    return len(log.read_text()) if log.exists() else 0


def stages(out: Path) -> dict[str, str]:
    return {each.row.id: each.stage for each in cohort_status(out)[1]}


def results(out: Path) -> dict[str, dict[str, object]]:
    return {name: Report.read(out / name).result() for name in IDS}


def test_all_slides_and_nothing_left_to_do(slides: Path, tmp_path: Path) -> None:
    plan, out = plan_of(slides), tmp_path / "out"
    first = run_cohort(plan, out)
    assert first.complete
    tiles = sum(Report.read(out / name).tiles.total for name in IDS)
    assert asked(tmp_path) == tiles == sum(outcome.asked for outcome in first.outcomes.values())
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/report.json")}
    again = run_cohort(plan, out)
    assert again.complete
    assert (again.finished, again.outcomes, asked(tmp_path)) == (3, {}, tiles)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/report.json")} == before
    assert set(stages(out).values()) == {"complete"}


def test_shared_out_is_the_same_as_whole(slides: Path, tmp_path: Path) -> None:
    whole = run_cohort(plan_of(slides), tmp_path / "whole")
    assert whole.complete
    shared = run_cohort(plan_of(slides, study_of(cluster={"part_tiles": 7, "workers": 3})), tmp_path / "shared")
    assert shared.complete
    assert results(tmp_path / "shared") == results(tmp_path / "whole")
    for name in IDS:
        assert not (tmp_path / "shared" / name / "parts").exists()
        with RunStore.open(tmp_path / "shared" / name) as store:
            assert store.attempts() == len(store.tiles())
    assert all(outcome.asked == outcome.tiles for outcome in shared.outcomes.values())


def ticket_of(slides: Path, out: Path, token: str, **fields: object) -> Ticket:
    plan = plan_of(slides / "one.svs", study_of())
    ticket = Ticket(
        id="one",
        slide=str(slides / "one.svs"),
        mpp=None,
        mask="auto",
        options={},
        request=plan.request.model_dump_json(),
        model=plan.study.model.model_dump_json(),
        quality=plan.study.quality.model_dump_json(),
        exports=(),
        root=str(out),
        token=token,
        part_tiles=7,
        allow_code=True,
    )
    return replace(ticket, **fields)  # type: ignore[arg-type]


def test_parts_that_were_cut_short_are_merged_once(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with AtWork(BatchFolder(out)) as work:
        ticket = ticket_of(slides, out, work.token)
        parts = run_ticket(ticket).parts
        assert len(parts) > 2
        first = run_ticket(replace(ticket, part=parts[0]))
        assert first.ended == "part"
        # A worker died while it merged: the answers were taken over and the part is still there.
        folder = out / "one" / "parts" / parts[0].name
        kept = shutil.copytree(folder, tmp_path / "kept")
        assert merge_parts_of(out / "one") == 1
        (out / "one" / "parts").mkdir()
        shutil.copytree(kept, folder)
        with RunStore.open(out / "one") as store:
            stored = store.attempts()
        assert stored == first.asked > 0
        again = run_ticket(ticket)
        assert not folder.exists()
        with RunStore.open(out / "one") as store:
            assert store.attempts() == stored, "a part is never taken over twice"
        # The same range again, under a new name: what is stored is not asked.
        assert min(part.first for part in again.parts) > max(
            tile for tile in range(parts[0].first, parts[0].stop) if tile < parts[0].stop - 1
        )
        for part in again.parts:
            assert run_ticket(replace(ticket, part=part)).ended == "part"
        assert run_ticket(replace(ticket, merge=True)).ended == "complete"
    report = Report.read(out / "one")
    assert asked(tmp_path) == report.tiles.total == report.run.asked


def test_bad_rows_are_said_at_once_and_the_others_run(slides: Path, tmp_path: Path) -> None:
    whole = (slides / "one.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "mask.geojson").write_text("{")
    rows = (
        "@one.svs,one,,,case,Ulm\n"  # 2
        "@nowhere.svs,lost,,,case,Ulm\n"
        f"{tmp_path}/cut.svs,cut,,,case,Ulm\n"
        f"@two.svs,masked,,{tmp_path}/mask.geojson,case,Ulm\n"  # 5
        "@two.svs,Same,,,case,Ulm\n"
        "@two.svs,same,,,case,Ulm\n"  # 7
        "@three.svs,three,,,control,Jena\n"
    )
    seen: list[Checked] = []

    class Watching(Quiet):
        def checked(self, checked: list[Checked]) -> None:  # type: ignore[override]
            seen.extend(checked)

    plan, out = plan_of(table(tmp_path, slides, rows)), tmp_path / "out"
    assert run_cohort(plan, out, strict=True).outcomes == {}
    assert asked(tmp_path) == 0
    result = run_cohort(plan, out, watcher=Watching())
    assert not result.complete
    assert [found.row for found in result.plan.findings] == [3, 4, 5, 6, 7]
    assert [each.row.number for each in seen if each.problem] == [3, 4, 5, 6, 7]
    for found, words in zip(
        result.plan.findings, ("does not exist", "cut.svs", "mask.geojson", "rows 6, 7", "rows 6, 7"), strict=True
    ):
        assert words in found.problem
    assert stages(out) == {
        "one": "complete",
        "three": "complete",
        "lost": "refused",
        "cut": "refused",
        "masked": "refused",
        "Same": "refused",
        "same": "refused",
    }
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [".batch", "one", "three"]


def test_no_scale_no_tissue_and_lost_tiles_fail_alone(slides: Path, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "glass.png"), np.full((400, 400, 3), 244, np.uint8))
    cv2.imwrite(str(tmp_path / "photo.png"), np.random.default_rng(0).integers(90, 200, (400, 400, 3), np.uint8))
    rows = f"@one.svs,one,,,,\n{tmp_path}/glass.png,glass,0.5,,,\n{tmp_path}/photo.png,photo,,all,,\n"
    out = tmp_path / "out"
    result = run_cohort(plan_of(table(tmp_path, slides, rows)), out)
    assert {name: outcome.ended for name, outcome in result.outcomes.items()} == {"one": "complete", "glass": "failed"}
    assert "No tissue" in result.outcomes["glass"].reason
    assert ["pixel size" in found.problem for found in result.plan.findings] == [True]
    status = {each.row.id: each for each in cohort_status(out)[1]}
    assert (status["glass"].stage, status["photo"].stage) == ("failed", "refused")
    assert "No tissue" in status["glass"].reason
    # With a scale for slides that state none, the picture runs too.
    again = run_cohort(plan_of(table(tmp_path, slides, rows), study_of(slides={"mpp": 0.5})), out)
    assert again.outcomes["photo"].ended == "complete"
    assert Report.read(out / "photo").slide.mpp_source == "user"
    assert Report.read(out / "one").slide.mpp_source == "file"


def test_another_request_is_refused_until_told_and_nothing_is_deleted(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_cohort(plan_of(slides), out).complete
    before = (out / "one" / "report.json").read_bytes()
    tiles = asked(tmp_path)
    for other in (
        study_of(request={"task": "detect", "labels": ["nucleus"], "mpp": 0.5, "tile_size": 64, "overlap": 16}),
        study_of(quality={"mode": "skip"}),
    ):
        refused = run_cohort(plan_of(slides, other), out)
        assert len(refused.plan.findings) == 3
        assert "--overwrite" in refused.plan.findings[0].problem
        assert refused.kept
        assert set(stages(out).values()) == {"complete"}, "the finished study is what is shown"
    assert asked(tmp_path) == tiles
    assert (out / "one" / "report.json").read_bytes() == before
    told = run_cohort(plan_of(slides, other), out, overwrite=True)
    assert told.complete
    assert (out / "one.bak-1" / "report.json").read_bytes() == before
    assert Report.read(out / "one").quality is not None
    # Told again, what fits is left as it is.
    again = run_cohort(plan_of(slides, other), out, overwrite=True)
    assert (again.complete, again.finished) == (True, 3)
    assert not (out / "one.bak-2").exists()


def test_cancelled_at_any_batch_and_repeated(slides: Path, tmp_path: Path) -> None:
    calm = run_cohort(plan_of(slides), tmp_path / "calm")
    assert calm.complete
    tiles, out = asked(tmp_path), tmp_path / "out"
    calls = 0
    while True:
        cancel = threading.Event()

        class Stops(Quiet):
            def progress(self, words: object) -> None:
                cancel.set()  # noqa: B023

        result: CohortResult = run_cohort(
            plan_of(slides, study_of(cluster={"workers": 1})), out, cancel=cancel, watcher=Stops()
        )
        calls += 1
        if result.complete:
            break
        assert result.stopped == "cancelled"
        assert not (out / ".batch" / "token").exists()
        assert calls < 50
    assert calls > 1
    assert results(out) == results(tmp_path / "calm")
    assert asked(tmp_path) == 2 * tiles, "no tile was asked twice"


def test_only_one_batch_at_a_time_and_only_where_there_is_room(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with AtWork(BatchFolder(out)), pytest.raises(RunLockedError, match="at work"):
        run_cohort(plan_of(slides), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.csv").write_text("years of work")
    with pytest.raises(ForeignFolderError, match=r"summary\.csv"):
        run_cohort(plan_of(slides), tmp_path / "mine")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((ForeignFolderError, FolderNotWritableError)):
            run_cohort(plan_of(slides), place)
    assert (tmp_path / "mine" / "summary.csv").read_text() == "years of work"


def test_a_call_that_was_replaced_stops_its_workers(tmp_path: Path) -> None:
    folder = BatchFolder(tmp_path)
    with AtWork(folder) as first:
        cancel = CalledOff(folder.token, first.token, every=0)
        assert not cancel.is_set()
    assert cancel.is_set(), "the call is over"
    with AtWork(folder) as second:
        assert CalledOff(folder.token, first.token, every=0).is_set(), "another has taken its place"
        assert not CalledOff(folder.token, second.token, every=0).is_set()


@pytest.mark.parametrize(("told", "words"), [("gone", "server is gone"), ("full", "disk is full")])
def test_what_no_slide_can_survive_stops_the_batch(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, words: str
) -> None:
    out = tmp_path / "out"
    if told == "full":

        def no_space(self: RunStore, batch: object, splits: object = ()) -> None:
            raise StoreFullError("The disk is full: it cannot grow.")

        monkeypatch.setattr(RunStore, "put", no_space)
    monkeypatch.setenv("COHORT_TOLD", told if told == "gone" else "")
    result = run_cohort(plan_of(slides, study_of(cluster={"workers": 1})), out)
    assert words in (result.stopped or "")
    assert not result.complete
    tried = sum(outcome.ended == "failed" for outcome in result.outcomes.values())
    assert tried == (1 if told == "full" else 3)
    monkeypatch.undo()
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    assert run_cohort(plan_of(slides), out).complete


def test_a_full_disk_at_the_report_keeps_every_answer(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Report, "write", lambda self, folder: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
        stopped = run_cohort(plan_of(slides, study_of(cluster={"workers": 1})), out)
    assert "disk is full" in (stopped.stopped or "")
    tiles = asked(tmp_path)
    assert stages(out)["one"] in ("open", "failed", "not begun")
    assert run_cohort(plan_of(slides), out).complete
    first = next(iter(stopped.outcomes))
    assert asked(tmp_path) == sum(Report.read(out / name).tiles.total for name in IDS)
    assert tiles == Report.read(out / first).tiles.total


def test_a_journal_with_a_corrupt_tail_loses_its_tail_alone(slides: Path, tmp_path: Path) -> None:
    import sqlite3

    out = tmp_path / "out"
    with AtWork(BatchFolder(out)) as work:
        assert run_ticket(ticket_of(slides, out, work.token, part_tiles=0)).ended == "complete"
    calm = Report.read(out / "one").result()
    total = Report.read(out / "one").tiles.total
    # As after a power cut: the last half of the answers lies in the write-ahead log, whose end is garbage.
    journal, cut = out / "one" / "run.sqlite", tmp_path / "cut"
    cut.mkdir()
    with sqlite3.connect(journal) as db:
        rows = db.execute("SELECT * FROM answers ORDER BY seq").fetchall()
        objects = db.execute("SELECT * FROM objects").fetchall()
        db.execute("DELETE FROM answers WHERE seq > ?", (total // 2,))
        db.execute("DELETE FROM objects WHERE tile NOT IN (SELECT tile FROM answers)")
    db.close()
    db = sqlite3.connect(journal, isolation_level=None)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for row in rows[total // 2 :]:
        db.execute("BEGIN")
        db.execute(f"INSERT INTO answers VALUES ({', '.join('?' * len(row))})", row)
        mine = [each for each in objects if each[0] == row[1]]
        db.executemany(f"INSERT INTO objects VALUES ({', '.join('?' * len(objects[0]))})", mine)
        db.execute("COMMIT")
    for suffix in ("", "-wal"):
        shutil.copy(f"{journal}{suffix}", cut)
    db.close()
    log = cut / "run.sqlite-wal"
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) - len(whole) // 4] + b"\x00garbage" * 200)
    for path in out.glob("one/run.sqlite*"):
        path.unlink()
    for path in cut.iterdir():
        shutil.copy(path, out / "one")
    (out / "one" / "report.json").unlink()
    with RunStore.open(out / "one") as store:
        kept = len(store.finished())
    assert total // 2 <= kept < total
    before = asked(tmp_path)
    result = run_cohort(plan_of(slides / "one.svs"), out)
    assert result.complete
    assert asked(tmp_path) - before == total - kept, "only the tail is asked again"
    assert Report.read(out / "one").result() == calm


def test_a_journal_that_is_broken_is_set_aside_only_when_told(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_cohort(plan_of(slides), out).complete
    (out / "one" / "run.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 99)
    refused = run_cohort(plan_of(slides), out)
    assert [found.id for found in refused.plan.findings] == ["one"]
    assert stages(out) == {"one": "refused", "two": "complete", "three": "complete"}
    assert run_cohort(plan_of(slides), out, overwrite=True).complete
    assert (out / "one.bak-1" / "run.sqlite").read_bytes().startswith(b"no database")


def test_an_unforeseen_error_fails_its_slide_with_a_trace(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workflows.run.slide

    real = workflows.run.slide.run_slide

    def odd(slide: object, *arguments: object, **settings: object) -> object:
        if "two" in str(getattr(slide, "path", "")):
            raise ZeroDivisionError("an unforeseen thing")
        return real(slide, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(workflows.run.slide, "run_slide", odd)
    out = tmp_path / "out"
    result = run_cohort(plan_of(slides), out)
    assert {name: each.ended for name, each in result.outcomes.items()} == {
        "one": "complete",
        "two": "failed",
        "three": "complete",
    }
    assert result.outcomes["two"].reason == "ZeroDivisionError: an unforeseen thing"
    note = json.loads((out / ".batch" / "failures" / "two.json").read_text())
    assert "Traceback" in note["trace"]


def test_the_summary_has_every_row_and_what_the_reports_say(slides: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = "@one.svs,one,,,case,Ulm\n@gone.svs,gone,,,case,\n@three.svs,three,,,control,Jena\n"
    out = tmp_path / "out"
    run_cohort(plan_of(table(tmp_path, slides, rows), study_of(exports=["geojson", "csv"])), out)
    text, binary = write_summary(out)
    with text.open(encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [(row["id"], row["group"], row["site"], row["stage"]) for row in written] == [
        ("one", "case", "Ulm", "complete"),
        ("gone", "case", "", "refused"),
        ("three", "control", "Jena", "complete"),
    ]
    report = Report.read(out / "one")
    assert report.results.task == "detect"
    nucleus = next(each for each in report.results.labels if each.label == "nucleus")
    assert int(written[0]["count_nucleus"]) == nucleus.count
    assert float(written[0]["per_mm2_nucleus"]) == nucleus.per_mm2
    assert written[1]["count_nucleus"] == ""
    assert report.quality is not None
    assert int(written[0]["qc_inspected"]) == report.quality.inspected == report.tiles.total
    data = pq.read_table(binary).to_pylist()
    assert [row["total"] for row in data] == [report.results.total, None, Report.read(out / "three").results.total]
    assert data[0]["complete"] is True
    assert (out / "one" / "objects.geojson.gz").exists()
    assert (out / "one" / "objects.csv").exists()


def test_a_lost_worker_is_the_scheduler_s_word(slides: Path, tmp_path: Path) -> None:
    """What comes back for a slide over which too many workers died."""
    from workflows.cohort.run import _Run

    class KilledWorker(Exception):
        pass

    class Lost:
        status = "error"

        def exception(self) -> Exception:
            return KilledWorker("four times")

    plan = plan_of(slides)
    with AtWork(BatchFolder(tmp_path / "out")) as work, threads(plan.study) as cluster:
        run = _Run(plan, BatchFolder(tmp_path / "out"), work, cluster, Quiet(), threading.Event(), False, False)  # type: ignore[arg-type]
        outcome: SlideOutcome = run._outcome(Lost(), ticket_of(slides, tmp_path / "out", work.token))
        assert outcome.ended == "failed"
        assert "4 workers were lost over it" in outcome.reason


def test_a_scheduler_that_is_gone_stops_the_batch_in_words(slides: Path, tmp_path: Path) -> None:
    from workflows.cohort.run import _Run
    from workflows.cohort.workers.cluster import LOST

    class Cancelled:
        status = "cancelled"

    plan = plan_of(slides)
    with AtWork(BatchFolder(tmp_path / "out")) as work, threads(plan.study) as cluster:
        arguments = (plan, BatchFolder(tmp_path / "out"), work, cluster, Quiet(), threading.Event(), False, False)
        run = _Run(*arguments)  # type: ignore[arg-type]
        ticket = ticket_of(slides, tmp_path / "out", work.token)
        assert run._outcome(Cancelled(), ticket).ended == "stopped"
        assert run.stopped == LOST
        # No worker is left: at the second look in a row it is over, whatever is still under way.
        run = _Run(*arguments)  # type: ignore[arg-type]
        cluster.slots = lambda: ([], {})  # type: ignore[method-assign]
        cluster.lost = lambda: "No worker process is left."  # type: ignore[method-assign]
        for workers, stopped in ((0, None), (1, None), (0, None), (0, "No worker process is left.")):
            run._look_for_loss(workers)
            assert run.stopped == stopped
        assert run.run([]) == {}
