"""The store: whole tiles or none, one finished answer per tile, and clear refusals."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Request
from workflows.errors import (
    FolderNotWritableError,
    ForeignFolderError,
    RunLockedError,
    RunMismatchError,
    RunNotFoundError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreVersionError,
)
from workflows.store.folder import JOURNAL, LOCK
from workflows.store.provenance import Manifest, grid_facts, mask_facts, model_facts, slide_facts, software_versions
from workflows.store.rows import TILE_DTYPE, tile_of, tile_table
from workflows.store.run_store import RunStore
from wsi.grid import TileGrid
from wsi.slide import Slide
from wsi.tissue import TissueMask


def manifest_of(slide: Slide, request: Request, **changes: object) -> tuple[Manifest, np.ndarray]:
    mask = TissueMask.from_slide(slide, method="all")
    grid = TileGrid.from_slide(slide, tile_size=request.tile_size, overlap=request.overlap, mpp=request.mpp, mask=mask)
    manifest = Manifest(
        request=request,
        request_hash=request.hash,
        slide=slide_facts(slide),
        model=model_facts(FakeEngine().info),
        grid=grid_facts(grid, slide),
        mask=mask_facts(mask, "all", slide),
        versions=software_versions(),
        command=None,
        created="2026-01-01T00:00:00+00:00",
    )
    return manifest.model_copy(update=changes), tile_table(grid)


@pytest.fixture
def start(slide: Slide, detect: Request, tmp_path: Path):
    manifest, tiles = manifest_of(slide, detect)

    def create(folder: Path = tmp_path / "run", overwrite: bool = False, **changes: object) -> RunStore:
        return RunStore.create(folder, manifest.model_copy(update=changes), tiles, overwrite=overwrite)

    return create


BOX = TileObject("tumour", box=(10, 20, 30.5, 40), score=0.75, attributes={"grade": 3})
POINT = TileObject("lymphocyte", point=(5, 6))


def test_an_answer_comes_back_as_it_was_put(start) -> None:
    answer = Answer(
        Status.REPAIRED,
        (BOX, POINT),
        text="two",
        value={"n": [1, None]},
        scores={"yes": 0.1 + 0.2},
        raw="<raw>",
        reasoning="because",
        notes=("fence", "clipped:2"),
        finish_reason="length",
        prompt_tokens=7,
        new_tokens=8,
        seconds=0.5,
    )
    with start() as store:
        tile = tile_of(store.tiles()[3])
        store.put([(tile, answer)])
        found = store.answer(3)
        assert found is not None
        assert (found.tile, found.attempt, found.objects) == (3, 1, 2)
        for name in ("status", "text", "value", "scores", "raw", "reasoning", "notes", "finish_reason", "seconds"):
            assert getattr(found.answer, name) == getattr(answer, name), name
        objects = store.objects()
        left, top = tile.x0, tile.y0
        assert objects.box.tolist() == [
            [left + 10, top + 20, left + 30.5, top + 40],
            [left + 5, top + 6, left + 5, top + 6],
        ]
        assert objects.point.tolist() == [False, True]
        assert objects.score[0] == 0.75
        assert np.isnan(objects.score[1])
        assert [store.labels[i] for i in objects.label] == ["tumour", "lymphocyte"]
        assert store.attributes(0, 10) == {(3, 0): {"grade": 3}}


def test_tiles_come_back_and_their_cores_share_the_slide(start, slide: Slide) -> None:
    with start() as store:
        table = store.tiles()
        assert table.dtype == TILE_DTYPE
        areas = (table["core_x1"] - table["core_x0"]) * (table["core_y1"] - table["core_y0"])
        assert areas.sum() == slide.width * slide.height
        assert table["core_tissue"].sum() == pytest.approx(slide.width * slide.height)


def test_a_tile_is_finished_once_and_a_failed_one_can_be_asked_again(start) -> None:
    with start() as store:
        first, second = (tile_of(row) for row in store.tiles()[:2])
        store.put([(first, Answer(Status.EMPTY)), (second, Answer.failure("no pixels", objects=(BOX,)))])
        assert store.finished().tolist() == [0]
        assert store.failed().tolist() == [1]
        assert len(store.objects()) == 0
        store.put([(second, Answer.failure("again"))])
        store.put([(second, Answer(Status.OK, (BOX,)))])
        found = store.answer(1)
        assert found is not None
        assert (found.attempt, found.answer.status) == (3, Status.OK)
        assert store.failed().size == 0
        assert store.attempts() == 4
        assert store.status_counts()[Status.OK] == 1
        assert store.status_counts()[Status.FAILED] == 0
        with pytest.raises(StoreError, match="already holds a finished answer"):
            store.put([(tile_of(store.tiles()[2]), Answer(Status.OK)), (first, Answer(Status.OK))])
        assert store.finished().tolist() == [0, 1], "the batch is stored whole or not at all"


def test_a_tile_of_another_grid_is_refused(start) -> None:
    with start() as store:
        tile = tile_of(store.tiles()[0])
        with pytest.raises(StoreError):
            store.put([(type(tile)(9999, 0, 0, 1, 1, 1, 1), Answer(Status.OK))])


def test_others_read_while_one_writes(start, tmp_path: Path) -> None:
    with start() as writer, RunStore.open(tmp_path / "run") as reader:
        tiles = [tile_of(row) for row in writer.tiles()]
        assert reader.changes_since(0).answers == ()
        writer.put([(tiles[4], Answer(Status.OK, (BOX,)))])
        writer.put([(tiles[1], Answer(Status.OK, (BOX, POINT)))])
        changes = reader.changes_since(0)
        assert [answer.tile for answer in changes.answers] == [4, 1]
        assert changes.objects.tile.tolist() == [1, 1, 4]
        writer.put([(tiles[2], Answer(Status.EMPTY))])
        later = reader.changes_since(changes.seq)
        assert [answer.tile for answer in later.answers] == [2]
        assert later.seq == writer.last_seq()
        with pytest.raises(StoreError):
            reader.put([(tiles[3], Answer(Status.OK))])


def test_only_one_process_writes(start, tmp_path: Path) -> None:
    with start():
        code = (
            "import sys; from workflows.store.run_store import RunStore; from workflows.errors import RunLockedError\n"
            "try: RunStore.open(sys.argv[1], readonly=False)\n"
            "except RunLockedError as error: print('locked', error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True
        )
        assert "locked Another process is writing" in done.stdout
        with pytest.raises(RunLockedError):
            start(overwrite=True)
    RunStore.open(tmp_path / "run", readonly=False).close()


def test_the_same_run_goes_on(start) -> None:
    with start() as store:
        store.put([(tile_of(store.tiles()[0]), Answer(Status.EMPTY))])
        created = store.manifest.created
    with start(created="2030-01-01T00:00:00+00:00") as store:
        assert not store.fresh
        assert store.manifest.created == created
        assert store.finished().tolist() == [0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"request_hash": "sha256:other"}, "request"),
        ({"model": "fingerprint"}, "model"),
        ({"slide": "fingerprint"}, "slide"),
        ({"slide": "mpp_x"}, "slide scale"),
        ({"grid": "hash"}, "grid"),
    ],
)
def test_another_run_is_refused_by_name(start, slide, detect, changed: dict[str, str], named: str) -> None:
    start().close()
    manifest, _ = manifest_of(slide, detect)
    update: dict[str, object] = {}
    for key, value in changed.items():
        part = getattr(manifest, key)
        other = 0.125 if value == "mpp_x" else "sha256:other"
        update[key] = value if isinstance(part, str) else part.model_copy(update={value: other})
    with pytest.raises(RunMismatchError) as caught:
        start(**update)
    message = str(caught.value)
    assert f"What differs: {named} (" in message
    assert ";" not in message, "nothing else differs"
    assert "-o" in message
    assert "--overwrite" in message


def test_overwrite_sets_the_old_run_aside(start, tmp_path: Path) -> None:
    with start() as store:
        store.put([(tile_of(store.tiles()[0]), Answer(Status.EMPTY))])
    for number in (1, 2):
        with start(overwrite=True) as store:
            assert store.backup == tmp_path / f"run.bak-{number}"
            assert store.fresh
            assert store.finished().size == 0
    with RunStore.open(tmp_path / "run.bak-1") as old:
        assert old.finished().tolist() == [0]


def test_discard_leaves_nothing_and_brings_the_old_run_back(start, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    start(deep).discard()
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    start(tmp_path / "empty").discard()
    assert list((tmp_path / "empty").iterdir()) == []
    with start() as store:
        store.put([(tile_of(store.tiles()[0]), Answer(Status.EMPTY))])
    start(overwrite=True).discard()
    assert not (tmp_path / "run.bak-1").exists()
    with RunStore.open(tmp_path / "run") as store:
        assert store.finished().tolist() == [0]
    with start() as store, pytest.raises(StoreError, match="not thrown away"):
        store.discard()


def test_foreign_files_are_left_alone(start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.docx").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ForeignFolderError, match=r"thesis\.docx"):
            start(overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["thesis.docx"]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ForeignFolderError, match="is a file"):
        start(file)
    with pytest.raises(FolderNotWritableError, match="cannot be made"):
        start(file / "run")


def test_leftovers_of_a_start_that_was_killed_do_no_harm(start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / f"{JOURNAL}.partial").write_bytes(b"half")
    (folder / LOCK).write_bytes(b"")
    with start() as store:
        assert store.fresh
        assert len(store.tiles()) > 0


def test_no_run_and_broken_journals_are_named(start, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="holds no run"):
        RunStore.open(tmp_path)
    start().close()
    journal = tmp_path / "run" / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(b"not a database, but long enough to look like one" * 50)
    with pytest.raises(StoreCorruptError, match="not a readable journal"):
        RunStore.open(tmp_path / "run")
    with pytest.raises(StoreCorruptError):
        start()
    journal.unlink()
    other = sqlite3.connect(journal)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(StoreCorruptError, match="another program"):
        RunStore.open(tmp_path / "run")
    journal.write_bytes(whole)
    later = sqlite3.connect(journal)
    later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StoreVersionError, match="version 99"):
        RunStore.open(tmp_path / "run")


def test_a_full_disk_keeps_what_is_finished(start, tmp_path: Path) -> None:
    long = Answer(Status.OK, raw="x" * 100_000)
    with start() as store:
        tiles = [tile_of(row) for row in store.tiles()]
        store.put([(tiles[0], Answer(Status.EMPTY))])
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreFullError, match="disk is full"):
            store.put([(tiles[1], long), (tiles[2], Answer(Status.EMPTY))])
        assert store.finished().tolist() == [0]
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.put([(tiles[1], long)])
    with RunStore.open(tmp_path / "run") as store:
        assert store.finished().tolist() == [0, 1]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root writes anywhere")
def test_a_run_in_a_folder_that_cannot_be_written_can_be_read(start, tmp_path: Path) -> None:
    start().close()
    folder = tmp_path / "run"
    folder.chmod(0o555)
    try:
        with RunStore.open(folder) as store:
            assert len(store.tiles()) > 0
    finally:
        folder.chmod(0o755)
