"""Files that come back from QuPath, copied, late, of other runs and damaged: nothing is doubled, nothing is guessed."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import CountingEngine, MemorySlide

from qwenvl.answer import Answer, Status, TileObject
from qwenvl.request import Request
from workflows.export.geojson import export_geojson
from workflows.review.corrections import CorrectionsError, read_corrections
from workflows.review.decisions import Action, Change, Reviews, Verdict, object_name
from workflows.review.reviewed import State, reviewed_objects
from workflows.run.slide import run_slide
from workflows.store.run_store import RunStore


@pytest.fixture
def run(slide: MemorySlide, detect: Request, tmp_path: Path) -> Path:
    run_slide(slide, detect, CountingEngine(), tmp_path / "run", overview=False)
    return tmp_path / "run"


def exported(run: Path, path: Path) -> list[dict[str, Any]]:
    export_geojson(run, path, overwrite=True)
    return json.loads(path.read_text())["features"]


def write(path: Path, features: Any, head: Any = None) -> Path:
    start = {} if head is None else {"qwenvl": head}
    path.write_text(json.dumps({"type": "FeatureCollection", **start, "features": features}))
    return path


def objects(run: Path) -> Any:
    with RunStore.open(run) as store:
        return reviewed_objects(store)


def renamed(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [feature | {"id": str(uuid.uuid4())} for feature in features]


def relabel(feature: dict[str, Any], name: Any) -> None:
    feature["properties"]["classification"] = name


def moved(feature: dict[str, Any], dx: float) -> dict[str, Any]:
    ring = feature["geometry"]["coordinates"][0]
    geometry = feature["geometry"] | {"coordinates": [[[x + dx, y] for x, y in ring]]}
    return feature | {"geometry": geometry}


def test_other_ids_are_found_by_place(run, tmp_path):
    features = renamed(exported(run, tmp_path / "q.geojson"))
    number = len(features)
    assert str(read_corrections(run, write(tmp_path / "q.geojson", features))) == f"{number} unchanged"
    relabel(features[0], {"name": "mitosis"})
    path = write(tmp_path / "q.geojson", [moved(features[0], 2), *features[1:]])
    made = read_corrections(run, path)
    assert (made.relabelled, made.same, made.added, made.missing) == (1, number - 1, 0, 0)
    found = objects(run)
    assert found.labels[found.label[0]] == "mitosis"
    assert len(found) == number
    assert read_corrections(run, path).same == number


def test_a_class_may_be_a_string_and_split_by_qupath(slide, tmp_path):
    detect = Request(task="detect", labels=("CD3:CD8", "x"), tile_size=224, overlap=32, mpp=0.5)
    run_slide(slide, detect, CountingEngine(), tmp_path / "run", overview=False)
    features = exported(tmp_path / "run", tmp_path / "q.geojson")
    number = len(features)
    split = [f for f in features if f["properties"]["classification"]["name"] == "CD3:CD8"]
    assert split
    for name in ({"names": ["CD3", "CD8"]}, "CD3:CD8", {"name": "CD8", "parentClass": {"name": "CD3"}}):
        for feature in split:
            relabel(feature, name)
        made = read_corrections(tmp_path / "run", write(tmp_path / "q.geojson", features))
        assert str(made) == f"{number} unchanged"


def test_copies_under_one_id(run, tmp_path):
    features = exported(run, tmp_path / "q.geojson")
    away = json.loads(json.dumps(moved(features[0], 60.5)))
    relabel(away, "vessel")
    rows = [away, *features, features[1]]
    made = read_corrections(run, write(tmp_path / "q.geojson", rows))
    assert (made.added, made.same, made.reshaped, made.relabelled) == (1, len(features), 0, 0)
    again = read_corrections(run, tmp_path / "q.geojson")
    assert (again.added, again.same) == (0, len(features) + 1)


def test_points_children_and_what_is_no_object(run, tmp_path):
    features = exported(run, tmp_path / "q.geojson")
    points = {"type": "MultiPoint", "coordinates": [[5, 6], [90, 91], [7, 300]]}
    child = {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": {"type": "Point", "coordinates": [300, 9]},
        "properties": {"classification": "mitosis"},
    }
    square = [[[300, 300], [330, 300], [330, 330], [300, 330], [300, 300]]]
    rows = [
        *features,
        {"type": "Feature", "id": str(uuid.uuid4()), "geometry": points, "properties": {"classification": "mitosis"}},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": square},
            "properties": {"objectType": "tmaCore", "childObjects": [child]},
        },
        {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 2], [30, 40]]}, "properties": {}},
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": square, "plane": {"c": -1, "z": 4, "t": 0}},
            "properties": {"classification": "mitosis"},
        },
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[1, "a"]]]}, "properties": {}},
        {"type": "Feature", "geometry": None, "properties": {}},
    ]
    path = write(tmp_path / "q.geojson", rows)
    made = read_corrections(run, path, reject_missing=True)
    assert (made.added, made.same, made.lines, made.elsewhere, made.rejected) == (4, len(features), 1, 1, 0)
    assert [text.split(": ")[0].split()[1] for text in made.refused] == [str(len(features) + 4), str(len(features) + 5)]
    assert "2 that cannot be read (feature" in str(made)
    drawn = objects(run)
    assert drawn.box[drawn.point & (drawn.key < 0)].tolist() == [
        [5, 6, 5, 6],
        [90, 91, 90, 91],
        [7, 300, 7, 300],
        [300, 9, 300, 9],
    ]
    assert read_corrections(run, path, reject_missing=True).same == len(features) + 4


def test_a_file_without_names_is_known_again_by_place(run, tmp_path):
    row = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "Point", "coordinates": [5, 6]},
        "properties": {"classification": {"name": "a"}},
    }
    assert read_corrections(run, write(tmp_path / "q.geojson", [row])).added == 1
    relabel(row, {"name": "b"})
    made = read_corrections(run, write(tmp_path / "q.geojson", [row]))
    assert (made.added, made.relabelled) == (0, 1)
    found = objects(run)
    assert [found.labels[code] for code in found.label[found.key < 0]] == ["b"]


@pytest.mark.parametrize("head_kept", [True, False])
def test_another_run_brings_decisions_and_no_objects(slide, detect, run, tmp_path, head_kept):
    class Other(CountingEngine):
        def answer(self, pictures, request):
            return [Answer(Status.OK, objects=(TileObject("cyst", box=(150, 150, 180, 190)),)) for _ in pictures]

    other = detect.model_copy(update={"labels": ("cyst", "tumour"), "max_objects": 7})
    run_slide(slide, other, Other(), tmp_path / "other", overview=False)
    with RunStore.open(tmp_path / "other") as store, Reviews.open(tmp_path / "other", "ada") as reviews:
        found = reviewed_objects(store)
        key = int(found.key[0])
        tile, item = key >> 20, key & (1 << 20) - 1
        box = tuple(found.box[0].tolist())
        label = found.labels[found.label[0]]
        reviews.decide(
            [
                Change(
                    Action.ACCEPT,
                    object_name(store.manifest, tile, item),
                    Verdict.ACCEPTED,
                    label,
                    box,
                    False,
                    tile,
                    item,
                    label,
                    box,
                )
            ]
        )
    before = len(objects(run))
    features = exported(tmp_path / "other", tmp_path / "q.geojson")
    head = json.loads((tmp_path / "q.geojson").read_text())["qwenvl"] if head_kept else None
    path = write(tmp_path / "q.geojson", features, head)
    with pytest.raises(CorrectionsError, match="comes from another run"):
        read_corrections(run, path, reject_missing=True)
    made = read_corrections(run, path)
    assert made.added + made.accepted + made.relabelled == 1
    assert made.foreign + made.same == len(features) - 1
    assert made.foreign > 0
    assert len(objects(run)) == before + made.added
    again = read_corrections(run, path)
    assert again.added + again.accepted + again.relabelled == 0


def test_a_run_that_went_on_meanwhile(slide, detect, tmp_path):
    folder = tmp_path / "run"
    run_slide(slide, detect, CountingEngine(), folder, overview=False, limit=6)
    path = tmp_path / "early.geojson"
    features = exported(folder, path)
    assert {feature["properties"]["metadata"]["answers"] for feature in features} == {"6"}
    early = objects(folder)
    run_slide(slide, detect, CountingEngine(), folder, overview=False)
    late = objects(folder)
    assert len(late) > len(early)
    write(path, features)  # as QuPath writes it: without our head
    made = read_corrections(folder, path, write=False)
    assert (made.same, made.added, made.relabelled, made.reshaped) == (len(features), 0, 0, 0)
    assert made.missing == 0
    assert made.since > 0
    deleted = features[0]["id"]
    relabel(features[1], "mitosis")
    write(path, features[1:])
    made = read_corrections(folder, path, reject_missing=True)
    assert made.relabelled == 1
    assert made.rejected <= 1  # it may have become a part of a larger one since
    after = objects(folder)
    assert len(after) == len(late)
    assert (after.state == State.REJECTED).sum() == made.rejected
    assert "mitosis" in [after.labels[code] for code in after.label]
    assert deleted not in [feature["id"] for feature in features[1:]]
    # The finished run says nothing of the kind: nothing can come any more.
    assert "answers" not in exported(folder, tmp_path / "late.geojson")[0]["properties"]["metadata"]


def test_decisions_made_since_outlive_an_older_file(run, tmp_path):
    path = tmp_path / "q.geojson"
    features = exported(run, path)
    os.utime(path, (0, 0))
    with RunStore.open(run) as store, Reviews.open(run, "ada") as reviews:
        found = reviewed_objects(store)
        key = int(found.key[0])
        box, label = tuple(found.box[0].tolist()), found.labels[found.label[0]]
        name = object_name(store.manifest, key >> 20, key & (1 << 20) - 1)
        reviews.decide(
            [
                Change(Action.RELABEL, name, Verdict.EDITED, "mitosis", box, False, *divmod(key, 1 << 20), label, box),
                Change(Action.ADD, str(uuid.uuid4()), Verdict.EDITED, "vessel", (5.0, 6.0, 25.0, 30.0)),
            ]
        )
    made = read_corrections(run, path, reject_missing=True)
    assert (made.same, made.relabelled, made.rejected, made.since) == (len(features), 0, 0, 1)


def test_nothing_is_written_where_only_asked(run, tmp_path):
    features = exported(run, tmp_path / "q.geojson")
    made = read_corrections(run, write(tmp_path / "q.geojson", features[2:]), reject_missing=True, write=False)
    assert made.rejected == 2
    assert not objects(run).state.any()


def test_mutated_files_end_in_named_errors_or_in_what_they_say(run, tmp_path):
    from wsi.errors import SlideError

    export_geojson(run, tmp_path / "q.geojson")
    text = (tmp_path / "q.geojson").read_bytes()
    rng, right = np.random.default_rng(7), 0
    path = tmp_path / "m.geojson"
    for number in range(40):
        data = bytearray(text)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(len(data)))
            match number % 4:
                case 0:
                    data[at] = int(rng.integers(32, 127))
                case 1:
                    del data[at : at + int(rng.integers(1, 40))]
                case 2:
                    data[at:at] = bytes(rng.choice(list(b'{}[],:"0123456789nul'), 3).tolist())
                case 3:
                    data = data[: max(1, at)]
        path.write_bytes(gzip.compress(bytes(data)) if number % 8 == 3 else bytes(data))
        try:
            read_corrections(run, path, write=False)
        except (CorrectionsError, SlideError) as error:
            right += str(path) in str(error)
        else:
            right += 1
    assert right == 40


@pytest.mark.parametrize("answer", [True, False])
def test_it_is_asked_whether_missing_objects_were_deleted(run, tmp_path, answer):
    features = exported(run, tmp_path / "q.geojson")
    asked = []

    def deleted(number):
        asked.append(number)
        return answer

    path = write(tmp_path / "q.geojson", features[2:])
    made = read_corrections(run, path, reject_missing=deleted)
    assert asked == [2]
    assert (made.missing, made.rejected) == (2, 2 * answer)
    assert (objects(run).state == State.REJECTED).sum() == 2 * answer
    read_corrections(run, write(tmp_path / "q.geojson", features), reject_missing=deleted)
    assert asked == [2]


def test_what_cannot_be_read_was_not_deleted(run, tmp_path):
    features = exported(run, tmp_path / "q.geojson")
    broken = features[0] | {"geometry": {"type": "Polygon", "coordinates": [[["a", 1]]]}}
    path = write(tmp_path / "q.geojson", [broken, *features[1:]])
    made = read_corrections(run, path, reject_missing=True)
    assert (made.rejected, len(made.refused)) == (0, 1)
    outside = moved(features[0], 100_000)
    with pytest.raises(CorrectionsError, match=r"1 of [\d,]+ objects .* such as feature 0"):
        read_corrections(run, write(tmp_path / "q.geojson", [outside, *features[1:]]))
