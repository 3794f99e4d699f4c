"""Reviews: a journal that only grows, undo without end, and decisions that never move to another object."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest
from run_helpers import CountingEngine, MemorySlide

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.request import Request
from workflows.errors import RunNotFoundError, StoreCorruptError
from workflows.export.geojson import export_geojson
from workflows.review.corrections import CorrectionsError, read_corrections
from workflows.review.decisions import Action, Change, Ledger, Reviews, Verdict, new_object_name, object_name
from workflows.review.reviewed import Conflict, State, apply_reviews, reviewed_objects
from workflows.run.slide import run_slide
from workflows.store.folder import JOURNAL
from workflows.store.rows import ObjectColumns
from workflows.store.run_store import RunStore


@pytest.fixture
def run(slide: MemorySlide, detect: Request, tmp_path):
    folder = tmp_path / "run"
    run_slide(slide, detect, CountingEngine(), folder, overview=False)
    return folder


def change_of(store, row, verdict=Verdict.ACCEPTED, action=Action.ACCEPT, **changes):
    found = reviewed_objects(store)
    key = int(found.key[row])
    tile, item, label = key >> 20, key & (1 << 20) - 1, found.labels[found.label[row]]
    box = tuple(found.box[row].tolist())
    fields = {
        "action": action,
        "verdict": verdict,
        "label": label,
        "box": box,
        "point": bool(found.point[row]),
        "tile": tile,
        "item": item,
        "seen_label": label,
        "seen_box": box,
        "object": object_name(store.manifest, tile, item),
    }
    return Change(**(fields | changes))


def drawn(label="vessel", box=(5.0, 6.0, 25.0, 30.0)):
    return Change(Action.ADD, new_object_name(), Verdict.EDITED, label, box)


def test_a_run_without_reviews_is_as_it_was(run):
    with RunStore.open(run) as store:
        found = reviewed_objects(store)
        assert store.reviews() == []
        assert len(found) > 3
        assert not found.state.any()
        assert not found.decisions


def test_decisions_are_kept_with_who_and_when_and_leave_the_answers_alone(run):
    before = sqlite3.connect(run / JOURNAL).execute("SELECT * FROM objects").fetchall()
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0)])
        reviews.decide([change_of(store, 1, Verdict.REJECTED, Action.REJECT)])
        reviews.decide([change_of(store, 2, Verdict.EDITED, Action.RELABEL, label="plasma cell")])
        reviews.decide([drawn()], note="by hand")
    with RunStore.open(run) as store:
        rows, found = store.reviews(), reviewed_objects(store)
        assert [row.action for row in rows] == ["accept", "reject", "relabel", "add"]
        assert {row.who for row in rows} == {"ada"}
        assert rows[0].time.startswith("20")
        assert rows[3].note == "by hand"
        assert found.state[:3].tolist() == [State.ACCEPTED, State.REJECTED, State.EDITED]
        assert found.labels[found.label[2]] == "plasma cell"
        assert found.labels[found.label[-1]] == "vessel"
        assert found.key[-1] < 0
        assert found.box[-1].tolist() == [5.0, 6.0, 25.0, 30.0]
        assert found.name(0, store.manifest) == object_name(store.manifest, *divmod(int(found.key[0]), 1 << 20))
        assert found.kept.sum() == len(found) - 1
        assert found.trusted.sum() == 3
    assert sqlite3.connect(run / JOURNAL).execute("SELECT * FROM objects").fetchall() == before


def test_undo_and_redo_reach_back_to_the_start_and_outlive_the_program(run):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        changes = [change_of(store, row) for row in range(3)]
        for change in changes:
            reviews.decide([change])
        both = [change_of(store, row, Verdict.REJECTED, Action.REJECT) for row in (0, 1)]
        reviews.decide(both)
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        assert set(reviews.undo()) == {change.object for change in both}
        assert reviewed_objects(store).state[:3].tolist() == [1, 1, 1]
        for _ in range(3):
            assert reviews.undo()
        assert reviews.undo() == []
        assert not reviewed_objects(store).state.any()
        for _ in range(4):
            assert reviews.redo()
        assert reviews.redo() == []
        assert reviewed_objects(store).state[:3].tolist() == [2, 2, 1]
        reviews.undo()
        reviews.decide([drawn()])
        assert reviews.redo() == []


def test_each_reviewer_undoes_own_steps(run):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as ada, Reviews.open(run, "grace") as grace:
        ada.decide([change_of(store, 0)])
        grace.decide([change_of(store, 1)])
        assert ada.undo() == [change_of(store, 0).object]
        assert reviewed_objects(store).state[:2].tolist() == [0, 1]
        assert ada.undo() == []
        assert grace.refresh()
        assert grace.undo() == [change_of(store, 1).object]


def test_the_journal_only_grows(run):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0)])
    connection = sqlite3.connect(run / JOURNAL)
    for statement in ("DELETE FROM reviews", "UPDATE reviews SET who = 'eve'"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
            connection.execute(statement)


def test_reviews_are_written_while_another_process_writes_the_run(run):
    with RunStore.open(run, readonly=False) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0)])
        assert reviewed_objects(store).state[0] == State.ACCEPTED


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunNotFoundError, match="holds no run"):
        Reviews.open(tmp_path)


def test_a_run_that_goes_on_keeps_its_reviews(slide, detect, tmp_path):
    folder = tmp_path / "run"
    run_slide(slide, detect, CountingEngine(), folder, overview=False, limit=6)
    with RunStore.open(folder) as store, Reviews.open(folder, "ada") as reviews:
        seen = reviewed_objects(store)
        reviews.decide([change_of(store, row) for row in range(len(seen))])
    run_slide(slide, detect, CountingEngine(), folder, overview=False)
    with RunStore.open(folder) as store:
        found = reviewed_objects(store)
        assert len(found) > len(seen)
        assert len(found.lost) + len(found.decisions) >= len(seen) - (found.conflict == Conflict.GROWN).sum()
        for row, decision in found.decisions.items():
            was, now = np.array(decision.change.seen_box), found.box[row]
            shared = np.prod(np.clip(np.minimum(was[2:], now[2:]) - np.maximum(was[:2], now[:2]), 0, None))
            assert shared >= 0.5 * np.prod(was[2:] - was[:2])


BOX = (100.0, 100.0, 140.0, 130.0)


def merged(*rows):
    """Columns of (tile, item, label, box)."""
    return ObjectColumns(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.int32),
        np.array([r[3] for r in rows], float).reshape(-1, 4),
        np.array([r[3][0] == r[3][2] for r in rows], bool),
        np.full(len(rows), 0.5),
    )


def decided(*changes):
    from workflows.review.decisions import Decision

    return Ledger(Decision(i, i, "t", "ada", c.action, None, c) for i, c in enumerate(changes, 1))


def about(tile, item, seen=BOX, verdict=Verdict.ACCEPTED, label="a", box=None):
    return Change(
        Action.ACCEPT, f"{tile}/{item}", verdict, label, box or seen, seen[0] == seen[2], tile, item, "a", seen
    )


AWAY = (500.0, 500.0, 540.0, 530.0)
NEAR = (102.0, 101.0, 141.0, 131.0)
WHOLE = (100.0, 100.0, 220.0, 130.0)
SPOT, SPOT_NEAR, SPOT_AWAY = (50.0, 50.0) * 2, (53.0, 54.0) * 2, (70.0, 50.0) * 2
FOUND = [
    # what there is now, decisions, expected (state, conflict) by row
    ("plain", [(1, 2, 0, BOX)], [about(1, 2)], [(1, Conflict.NONE)]),
    ("key at another cell", [(1, 2, 0, AWAY)], [about(1, 2)], [(0, 0), (1, Conflict.MISSING)]),
    ("key moved, cell stays", [(1, 2, 0, AWAY), (4, 0, 0, NEAR)], [about(1, 2)], [(0, 0), (1, Conflict.FOLLOWED)]),
    ("another class at the place", [(4, 0, 1, NEAR)], [about(1, 2)], [(0, 0), (1, Conflict.MISSING)]),
    ("joined, same key", [(1, 2, 0, WHOLE)], [about(1, 2)], [(1, Conflict.GROWN)]),
    ("joined, other key", [(4, 0, 0, WHOLE)], [about(1, 2)], [(1, Conflict.GROWN)]),
    ("two parts, one opinion", [(1, 2, 0, BOX)], [about(1, 2), about(9, 9, NEAR)], [(1, Conflict.FOLLOWED)]),
    (
        "two parts, two opinions",
        [(1, 2, 0, BOX)],
        [about(1, 2), about(9, 9, NEAR, Verdict.REJECTED)],
        [(0, Conflict.DISAGREE)],
    ),
    ("rejected and gone", [(5, 5, 0, AWAY)], [about(1, 2, verdict=Verdict.REJECTED)], [(0, 0)]),
    ("point nearby", [(4, 0, 0, SPOT_NEAR)], [about(1, 2, SPOT)], [(1, Conflict.FOLLOWED)]),
    ("point away", [(4, 0, 0, SPOT_AWAY)], [about(1, 2, SPOT)], [(0, 0), (1, Conflict.MISSING)]),
]


@pytest.mark.parametrize(("name", "rows", "changes", "expected"), FOUND, ids=[row[0] for row in FOUND])
def test_a_decision_finds_its_object_or_says_that_it_did_not(name, rows, changes, expected):
    found = apply_reviews(merged(*rows), ("a", "b"), decided(*changes))
    assert list(zip(found.state.tolist(), found.conflict.tolist(), strict=True)) == expected
    untouched = found.state == 0
    assert np.array_equal(found.box[: len(rows)][untouched[: len(rows)]], merged(*rows).box[untouched[: len(rows)]])
    assert not (found.trusted & np.isin(found.conflict, [2, 3, 4])).any()


def test_a_reshaped_object_keeps_the_reviewers_box_when_the_run_goes_on():
    mine = (98.0, 99.0, 139.0, 128.0)
    found = apply_reviews(merged((4, 0, 0, NEAR)), ("a",), decided(about(1, 2, box=mine, verdict=Verdict.EDITED)))
    assert found.box[0].tolist() == list(mine)
    assert found.state.tolist() == [State.EDITED]


def test_a_run_asked_again_by_an_unsteady_model_moves_no_decision(slide, detect, tmp_path):
    """The same key at another place, planted: the repetition of a run gives its objects in another order."""

    class Shuffled(CountingEngine):
        def answer(self, pictures, request):
            return [
                Answer(Status.OK, objects=tuple(TileObject("tumour", box=(x, 60, x + 30, 90)) for x in self.places))
                for _ in pictures
            ]

    engine, states = Shuffled(), []
    for number, engine.places in enumerate([(60, 120), (120, 60)]):
        folder = tmp_path / str(number)
        run_slide(slide, detect, engine, folder, overview=False, limit=1)
        with RunStore.open(folder) as store, Reviews.open(folder, "ada") as reviews:
            if number == 0:
                first = change_of(store, 0)
            reviews.decide([first])
            found = reviewed_objects(store)
            states.append([(int(found.box[i][0]), int(found.state[i])) for i in range(len(found))])
    assert sorted(states[0]) == sorted(states[1])


# ---------------------------------------------------------------------- QuPath


def qupath_edit(path, edit):
    """Change a GeoJSON file as QuPath would: features come back without the file's own head."""
    document = json.loads(path.read_text())
    features = edit(document["features"])
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_a_round_trip_through_qupath_changes_nothing(run, tmp_path):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0)])
        reviews.decide([change_of(store, 1, Verdict.REJECTED, Action.REJECT)])
        reviews.decide([change_of(store, 2, Verdict.EDITED, Action.RELABEL, label="plasma cell")])
        reviews.decide([drawn()])
        before = reviewed_objects(store)
        export_geojson(run, tmp_path / "out.geojson")
        made = read_corrections(run, tmp_path / "out.geojson")
        after = reviewed_objects(store)
        assert len(store.reviews()) == 4
    assert made.same == before.kept.sum()
    assert str(made) == f"{before.kept.sum()} unchanged"
    for column in ("key", "label", "box", "state"):
        assert np.array_equal(getattr(before, column), getattr(after, column))


def test_what_was_changed_in_qupath_becomes_one_step(run, tmp_path):
    path = tmp_path / "out.geojson"
    export_geojson(run, path)

    def edit(features):
        features[0]["properties"]["classification"]["name"] = "mitosis"
        ring = features[1]["geometry"]["coordinates"][0]
        features[1]["geometry"]["coordinates"][0] = [[x + 3, y - 2] for x, y in ring]
        new = {
            "type": "Feature",
            "id": "b3a7c6c0-0000-4000-8000-000000000001",
            "geometry": {"type": "Polygon", "coordinates": [[[50, 60], [80, 60], [80, 95], [50, 95], [50, 60]]]},
            "properties": {"objectType": "annotation", "classification": {"name": "vessel", "color": [1, 2, 3]}},
        }
        bare = new | {"id": "b3a7c6c0-0000-4000-8000-000000000002", "properties": {"objectType": "annotation"}}
        return [features[0], features[1], *features[3:], new, bare]

    qupath_edit(path, edit)
    with RunStore.open(run) as store:
        before = reviewed_objects(store)
        made = read_corrections(run, path, who="ada", reject_missing=True)
        found = reviewed_objects(store)
        assert (made.relabelled, made.reshaped, made.rejected, made.added, made.unclassified) == (1, 1, 1, 1, 1)
        assert found.labels[found.label[0]] == "mitosis"
        assert np.allclose(found.box[1], before.box[1] + [3, -2, 3, -2], atol=0.011)
        assert found.state[:3].tolist() == [State.EDITED, State.EDITED, State.REJECTED]
        assert found.box[-1].tolist() == [50, 60, 80, 95]
        again = read_corrections(run, path, who="ada", reject_missing=True)
        assert again.relabelled + again.reshaped + again.added + again.rejected == 0
        with Reviews.open(run, "ada") as reviews:
            reviews.undo()
        assert not reviewed_objects(store).state.any()


def test_corrections_in_another_copy_of_the_run_are_taken_over(slide, detect, tmp_path):
    for name in ("here", "there"):
        run_slide(slide, detect, CountingEngine(), tmp_path / name, overview=False)
    with RunStore.open(tmp_path / "there") as store, Reviews.open(tmp_path / "there", "grace") as reviews:
        reviews.decide([change_of(store, 0), change_of(store, 1, Verdict.EDITED, Action.RELABEL, label="x")])
        expected = reviewed_objects(store)
    export_geojson(tmp_path / "there", tmp_path / "there.geojson.gz")
    made = read_corrections(tmp_path / "here", tmp_path / "there.geojson.gz")
    assert (made.accepted, made.relabelled) == (1, 1)
    with RunStore.open(tmp_path / "here") as store:
        found = reviewed_objects(store)
    assert np.array_equal(found.state, expected.state)
    assert found.labels[found.label[1]] == "x"


BAD = [
    ("nothing", "", "is not GeoJSON"),
    ("empty", '{"type":"FeatureCollection","features":[]}', "holds no object"),
    ("another slide", '{"qwenvl":{"slide":"sha256:other"},"features":[]}', "belongs to another slide"),
    ("outside", '{"features":[{"geometry":{"type":"Point","coordinates":[99999,1]},"properties":{}}]}', "lie outside"),
]


@pytest.mark.parametrize(("name", "text", "words"), BAD, ids=[row[0] for row in BAD])
def test_a_file_that_does_not_belong_is_refused_whole(run, tmp_path, name, text, words):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(CorrectionsError, match=words):
        read_corrections(run, path)
    with RunStore.open(run) as store:
        assert store.reviews() == []


@pytest.mark.parametrize(
    "change",
    [
        "label = 'other'",
        "verdict = 'rejected'",
        "x_min = x_min + 1",
        "who = 'eve'",
        "action = 'odd'",
        "seen_label = NULL",
    ],
)
def test_a_review_whose_bits_changed_on_disk_is_a_named_error(run, tmp_path, change):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0, seen_box=(1, 2, 3, 4))], note="a note")
        reviews.undo()
    with RunStore.open(run) as store:
        store.verify()
    damage(run, f"UPDATE reviews SET {change} WHERE seq = 1")
    for use in (
        lambda: Reviews.open(run, "ada"),
        lambda: RunStore.open(run, readonly=False),
        lambda: export_geojson(run, tmp_path / "out.geojson"),
    ):
        with pytest.raises(StoreCorruptError, match="review 1 is not what was stored"):
            use()


def test_reviews_from_before_checksums_are_read_and_go_on(run):
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        reviews.decide([change_of(store, 0)])
    damage(run, "ALTER TABLE reviews DROP COLUMN checksum")
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        store.verify()
        reviews.decide([change_of(store, 1)])
    with RunStore.open(run) as store:
        assert len(store.reviews()) == 2
        codes = [row[0] is None for row in store._rows("SELECT checksum FROM reviews ORDER BY seq")]
    assert codes == [True, False]
    damage(run, "UPDATE reviews SET action = 'odd' WHERE seq = 1")
    with pytest.raises(StoreCorruptError, match="review 1"):
        Reviews.open(run, "ada")


def damage(run, statement):
    with sqlite3.connect(run / JOURNAL) as journal:
        journal.execute("DROP TRIGGER IF EXISTS reviews_stay")
        journal.execute(statement)
    journal.close()
