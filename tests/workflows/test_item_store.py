"""The journal of items that are no tiles: keys, what comes back, damage, and folders of other runs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from run_helpers import MemorySlide, request_of

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.engines.fake import FakeEngine
from qwenvl.request import Task
from workflows.errors import RunMismatchError, StoreCorruptError, StoreError
from workflows.run.item_store import ItemStore
from workflows.run.slide import run_slide
from workflows.store.provenance import ItemsManifest, model_facts, software_versions, utc_now
from workflows.store.run_store import RunStore
from wsi.tile import Tile


def manifest(**asked: str) -> ItemsManifest:
    info = FakeEngine().info
    return ItemsManifest(
        kind="photographs", asked=asked, model=model_facts(info), versions=software_versions(), created=utc_now()
    )


def at(number: int) -> Tile:
    return Tile(number, 0, 0, 1, 1, 1, 1)


def test_keys_keep_their_number_and_answers_come_back_whole(tmp_path: Path) -> None:
    answer = Answer(
        Status.OK,
        (TileObject("7", box=(1.5, 2, 30, 40.25), score=0.5), TileObject("g", point=(3, 4), attributes={"a": [1]})),
        text="7 g",
        value={"mass": 7},
        raw="[7 g]",
        notes=("fence",),
        prompt_tokens=3,
        new_tokens=4,
        seconds=0.5,
    )
    with ItemStore.create(tmp_path / "run", manifest(side="32")) as store:
        assert store.numbers(["b", "a", "b"]) == {"b": 0, "a": 1}
        store.put([(at(1), answer), (at(0), Answer.failure("no"))])
    with ItemStore.create(tmp_path / "run", manifest(side="32")) as store:
        assert store.numbers(["c", "a"]) == {"b": 0, "a": 1, "c": 2}
        assert store.answers() == {"b": Answer.failure("no"), "a": answer}
    with pytest.raises(RunMismatchError, match=r"side \(there 32, asked 64\)"):
        ItemStore.create(tmp_path / "run", manifest(side="64"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE items SET key = 'c' WHERE tile = 0", "its items are not what was stored"),
        ("UPDATE answers SET text = 'y'", r"the answers of 1 items \(0\) are not what was stored"),
    ],
)
def test_bits_that_change_on_disk_are_noticed(tmp_path: Path, damage: str, words: str) -> None:
    with ItemStore.create(tmp_path / "run", manifest()) as store:
        store.put([(at(store.numbers(["a"])["a"]), Answer(Status.OK, text="x"))])
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(StoreCorruptError, match=words):
        ItemStore.create(tmp_path / "run", manifest())


def test_the_folder_of_another_kind_of_run_is_named(tmp_path: Path) -> None:
    run_slide(MemorySlide(300, 300), request_of(Task.SCORE), FakeEngine(), tmp_path / "slide", mask="all")
    with pytest.raises(StoreError, match="its items are tiles of a slide"):
        ItemStore.create(tmp_path / "slide", manifest())
    ItemStore.create(tmp_path / "photographs", manifest()).close()
    with pytest.raises(StoreError, match="its items are photographs"):
        RunStore.open(tmp_path / "photographs")
    ItemStore.create(tmp_path / "slide", manifest(), overwrite=True).close()
    assert (tmp_path / "slide.bak-1" / "report.json").is_file()
