"""Metrics against numbers worked out by hand; conversations of other tools; replay answers; forgetting."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from finetune.conversations.formats import FORMATS, read_conversations, write_conversations
from finetune.dataset.cutting import Cutter, TileSpec
from finetune.errors import DatasetError, LabelFileError
from finetune.evaluation.forgetting import Forgetting, agreement, gram_f1
from finetune.evaluation.metrics import Judged, average_precision, best_of, near, score_answers
from finetune.examples.conversation import Writer
from finetune.examples.label_source import TileReader, validation_cuts
from qwenvl.answer import Answer, Status, TileObject
from qwenvl.families import get_family
from qwenvl.images.processor import ProcessorSettings
from qwenvl.request import Request, Task


def thing(label, x, y, side=10.0, score=None):
    return TileObject(label, box=(x, y, x + side, y + side), score=score)


def judged(truth, found, slide="s", status=Status.OK, um=None, **fields):
    return Judged(slide, tuple(truth), Answer(status, tuple(found), **fields), um)


def test_counts_by_hand():
    truth = [thing("a", 0, 0), thing("a", 50, 0), thing("b", 0, 50)]
    found = [
        thing("a", 1, 0, score=0.9),  # IoU 90/110
        thing("a", 5, 50, score=0.2),  # over b: a wrong class, IoU 1/3
        thing("b", 0, 55, score=0.8),  # IoU 1/3 with b
        thing("a", 50, 0, score=0.7),
    ]
    score = score_answers([judged(truth, found)], ("a", "b"))
    assert score.values["precision"] == pytest.approx(2 / 4)
    assert score.values["recall"] == pytest.approx(2 / 3)
    assert score.values["f1"] == pytest.approx(4 / 7)
    assert score.values["f1@0.3"] == pytest.approx(6 / 7)
    assert score.classes["a"]["f1"] == pytest.approx(4 / 5)
    assert score.classes["a"]["ap"] == pytest.approx(1.0)  # its two hits rank before the miss
    assert score.classes["b"]["ap"] == 0.0
    assert score.values["count_error"] == 1
    assert score.confusion == {"a": {"a": 2}, "b": {"": 1}, "": {"a": 1, "b": 1}}
    assert math.isnan(score.interval[0])  # one slide says nothing of others


def test_a_box_of_the_wrong_class_is_confusion():
    score = score_answers([judged([thing("a", 0, 0)], [thing("b", 0, 0)])], ("a", "b"))
    assert score.confusion == {"a": {"b": 1}}
    assert score.values["f1"] == 0


@pytest.mark.parametrize(
    ("ranked", "true", "expected"),
    [
        ([], 0, float("nan")),
        ([], 3, 0.0),
        ([(0.9, True)], 1, 1.0),
        ([(0.9, False), (0.8, True)], 1, 0.5),
        ([(0.9, True), (0.8, False), (0.7, True)], 2, 0.5 + 0.5 * 2 / 3),
        ([(0.9, True)], 4, 0.25),
    ],
)
def test_average_precision(ranked, true, expected):
    assert average_precision(ranked, true) == pytest.approx(expected, nan_ok=True)


def test_points_are_matched_in_um():
    truth = [TileObject("a", point=(10.0, 10.0)), TileObject("a", point=(40.0, 10.0))]
    found = [TileObject("a", point=(21.0, 10.0)), TileObject("a", point=(31.0, 10.0))]
    # 11 px and 9 px; the greedy choice would leave one point alone, the assignment does not.
    for um, expected in ((0.5, 1.0), (0.6, 0.5), (1.0, 0.0)):
        assert score_answers([judged(truth, found, um=um)], ("a",)).values["point_f1"] == pytest.approx(expected)
    assert near(np.zeros((0, 2)), np.zeros((3, 2)), 1) == []


def test_rates():
    same = [thing("a", 0, 0), thing("a", 0, 0.2), thing("a", 70, 0)]
    rows = [
        judged([], same),
        judged([], [], status=Status.EMPTY),
        judged([thing("a", 0, 0)], [], status=Status.FAILED),
        judged([thing("a", 0, 0)], [thing("a", 0, 0)], status=Status.TRUNCATED, finish_reason="length"),
    ]
    values = score_answers(rows, ("a",)).values
    assert values["duplicate_rate"] == pytest.approx(1 / 4)
    assert values["parse_rate"] == pytest.approx(2 / 4)
    assert values["cut_rate"] == pytest.approx(1 / 4)
    assert values["false_on_empty"] == pytest.approx(1 / 2)
    assert values["count_bias"] == pytest.approx((3 + 0 - 1 + 0) / 4)


def test_the_interval_is_over_slides():
    good = [judged([thing("a", 0, 0)], [thing("a", 0, 0)], slide="good") for _ in range(20)]
    bad = [judged([thing("a", 0, 0)], [], slide="bad") for _ in range(20)]
    low, high = score_answers(good + bad, ("a",)).interval
    assert (low, high) == (0.0, 1.0)  # tiles of one slide are no independent evidence
    assert score_answers(good + bad, ("a",)).interval == (low, high)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("f1", [0.1, 0.5, 0.3], 1), ("count_error", [3.0, 1.0, 2.0], 1), ("ap", [math.nan, 0.2], 1)],
)
def test_the_best_state(metric, values, best):
    assert best_of([{metric: value} for value in values], metric) == best


# ---------------------------------------------------------------------- forgetting


@pytest.mark.parametrize(
    ("before", "after", "passed", "lost"),
    [
        ({"a": 70.0}, {"a": 68.0}, True, 2.0),
        ({"a": 70.0}, {"a": 67.9}, False, 2.1),
        ({"a": 70.0, "b": 5.0}, {"a": 90.0, "b": 1.0}, False, 4.0),
        ({"a": 70.0}, {"a": 75.0}, True, 0.0),
    ],
)
def test_the_gate(before, after, passed, lost):
    gate = Forgetting(before, after, 2.0)
    assert gate.passed is passed
    assert gate.lost == pytest.approx(lost)


def test_nothing_measured_is_not_passed():
    assert not Forgetting({"a": math.nan}, {"a": math.nan}, 2.0).passed


def test_agreement_of_answers():
    detect = Request(task="detect", labels=("a",))
    one = Answer(Status.OK, (thing("a", 0, 0),))
    assert agreement(one, one, detect) == 1
    assert agreement(one, Answer(Status.EMPTY), detect) == 0
    assert agreement(Answer(Status.EMPTY), Answer(Status.EMPTY), detect) == 1
    assert agreement(one, Answer.failure("x"), detect) == 0
    count = Request(task="count", labels=("a",))
    assert agreement(Answer(Status.OK, value=8), Answer(Status.OK, value=6), count) == pytest.approx(0.75)
    score = Request(task="score", prompt="Tumor?")
    assert agreement(Answer(Status.OK, scores={"yes": 0.9}), Answer(Status.OK, scores={"yes": 0.4}), score) == 0.5
    assert gram_f1("stroma and fat", "stroma and fat") == 1
    assert 0 < gram_f1("stroma and fat", "stroma and glands") < 1


# ---------------------------------------------------------------------- forms of other tools


@pytest.fixture
def tiles(cells):
    spec = TileSpec(size=96)
    cuts = validation_cuts(Cutter(cells, spec, cells.names), "train")
    return cuts, TileReader(cells), Request(task="detect", labels=cells.names, tile_size=96, overlap=0)


@pytest.mark.parametrize("family_name", ["Qwen2.5-VL", "Qwen3-VL"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_form_holds_the_boxes(form, family_name, tiles, tmp_path):
    cuts, reader, request = tiles
    family = get_family(family_name)
    processor = ProcessorSettings.of_family(family)
    writer = Writer(family, family.factor)
    path = write_conversations(cuts, reader, request, writer, processor, tmp_path / "out", form)
    text = path.read_text()
    rows = json.loads(text) if form in ("llava", "sharegpt") else [json.loads(line) for line in text.splitlines()]
    assert len(rows) == len(cuts)
    for row, cut in zip(rows, cuts, strict=True):
        name = (
            row["image"]
            if form == "llava"
            else row["messages"][0]["content"][0]["image"]
            if form == "chatml"
            else row["images"][0]
        )
        with Image.open(tmp_path / "out" / name) as picture:
            width, height = picture.size
        # What the other tool will hold against the picture it finds, in shares of it.
        if form == "ms-swift":
            assert (width, height) == (cut.tile.width, cut.tile.height)
            places = np.array(row["objects"]["bbox"]).reshape(-1, 4) / np.array([width, height] * 2)
            assert row["messages"][1]["content"].count("<bbox>") == len(places)
        else:
            answer = row["conversations"][1]["value"] if form == "llava" else row["messages"][1]["content"]
            numbers = np.array([item["bbox_2d"] for item in json.loads(answer)]).reshape(-1, 4)
            size = np.array([width, height] * 2) if family_name == "Qwen2.5-VL" else 1000
            places = numbers / size
        truth = np.array([item.box for item in cut.objects]).reshape(-1, 4) / np.array(
            [cut.tile.width, cut.tile.height] * 2
        )
        assert len(places) == len(truth)
        for box in truth:
            assert np.abs(places - box).max(1).min() < 1.01 * max(1 / min(width, height), 1 / 1000)
    settings = json.loads((tmp_path / "out" / "README.json").read_text())
    if form == "ms-swift":
        assert settings["environment"] == {"QWENVL_BBOX_FORMAT": "new"}
        assert settings["arguments"]["norm_bbox"] == ("none" if family_name == "Qwen2.5-VL" else "norm1000")
    with pytest.raises(DatasetError, match="is not empty"):
        write_conversations(cuts, reader, request, writer, processor, tmp_path / "out", form)


@pytest.mark.parametrize("family_name", ["Qwen2.5-VL", "Qwen3-VL"])
def test_boxes_of_ms_swift_become_the_models_numbers(family_name, tiles, tmp_path):
    cuts, reader, request = tiles
    family = get_family(family_name)
    writer, processor = Writer(family, family.factor), ProcessorSettings.of_family(family)
    path = write_conversations(cuts, reader, request, writer, processor, tmp_path / "out", "ms-swift")
    shares = [json.loads(line) for line in path.read_text().splitlines()]
    for row, cut in zip(shares, cuts, strict=True):  # the same boxes, as shares of the picture
        objects = row["objects"]
        side = (cut.tile.width, cut.tile.height)
        objects["bbox"] = [[v / side[i % 2] for i, v in enumerate(box)] for box in objects["bbox"]]
        objects["bbox_type"] = "norm1"
    (path.parent / "shares.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shares))
    for file in (path, path.parent / "shares.jsonl"):
        for item, cut in zip(read_conversations(file, writer, processor), cuts, strict=True):
            frame = processor.frame(*item.sizes[0])
            found = writer.read(item.messages[1]["content"], request, frame).objects
            assert sorted(o.label for o in found) == sorted(o.label for o in cut.objects)
            unit = max(cut.tile.width, cut.tile.height) / 1000 if family_name == "Qwen3-VL" else 1.0
            for truth in cut.objects:
                near = [np.abs(np.array(o.box) - truth.box).max() for o in found if o.label == truth.label]
                assert min(near) <= 1.01 * unit
    with pytest.raises(LabelFileError, match="become a model's numbers when a run reads them"):
        read_conversations(path)
    for changes, message in (
        ({"bbox_type": "half"}, "none of real, norm1, norm1000"),
        ({"image_id": [3] * 9}, "does not name a picture"),
    ):
        row = json.loads(path.read_text().splitlines()[0])
        row["objects"] |= changes
        (path.parent / "bad.jsonl").write_text(json.dumps(row))
        with pytest.raises(LabelFileError, match=message):
            read_conversations(path.parent / "bad.jsonl", writer, processor)


@pytest.mark.parametrize("form", ["chatml", "llava", "sharegpt"])
def test_what_was_written_is_read_back(form, tiles, tmp_path):
    cuts, reader, request = tiles
    family = get_family("Qwen3-VL")
    writer, processor = Writer(family, family.factor), ProcessorSettings.of_family(family)
    path = write_conversations(cuts, reader, request, writer, processor, tmp_path / "out", form)
    found = read_conversations(path)
    assert len(found) == len(cuts)
    for item, cut in zip(found, cuts, strict=True):
        assert [message["role"] for message in item.messages] == ["user", "assistant"]
        assert item.messages[0]["content"][0] == {"type": "image"}
        frame = processor.frame(*item.sizes[0])
        answer = writer.read(item.messages[1]["content"], request, frame)
        assert len(answer.objects) == len(cut.objects)
        assert item.load().shape == (cut.tile.height, cut.tile.width, 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "neither 'messages' nor 'conversations'"),
        (
            {"messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]},
            "1 places for pictures, 0",
        ),
        ({"messages": [{"role": "user", "content": "<image>a"}], "images": ["none.png"]}, "does not exist"),
        ({"messages": [{"role": "owner", "content": "a"}]}, "without role or words"),
    ],
)
def test_rows_that_cannot_be_read(row, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(LabelFileError, match=message):
        read_conversations(path)


def test_tasks_of_objects_alone():
    writer = Writer(get_family("Qwen3-VL"), 32)
    frame = get_family("Qwen3-VL").frame(320, 320)
    with pytest.raises(Exception, match="cannot be taught from labelled objects"):
        writer.answer(Task.DESCRIBE, [], frame)
    with pytest.raises(Exception, match="is a point, and boxes are asked"):
        writer.answer(Task.DETECT, [TileObject("a", point=(1.0, 2.0))], frame)
