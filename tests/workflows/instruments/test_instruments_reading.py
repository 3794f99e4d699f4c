"""From photographs to a report and back to the truth, with an engine that knows and one that errs."""

from __future__ import annotations

import json
import shutil
import threading

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from knowing_engine import KnowingEngine
from PIL import Image

from recipes.instruments import Factory, make_set
from recipes.instruments.characters import CHARACTERS
from workflows.errors import ForeignFolderError, RunMismatchError
from workflows.science.instruments import (
    VALUES,
    Asking,
    InstrumentReport,
    ReadingTruth,
    Sheet,
    ValueStatus,
    read_photographs,
)
from workflows.science.instruments.errors import PhotographError, SheetError, TruthError
from workflows.science.instruments.evaluate import at_least, compare, distance, score
from workflows.science.instruments.photograph import PhotographPart, load_photograph, photograph_size
from workflows.science.instruments.picture import save_pictures

SHEET = Sheet.of(
    {
        "fields": {
            "temperature": {"unit": "°C", "min": -20, "max": 150},
            "humidity": {"unit": "%", "min": 0, "max": 100},
            "mass": {"unit": "g"},
            "acidity": {"unit": "pH"},
            "speed": {"unit": "rpm", "type": "integer"},
        }
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "set"
    make_set(folder, Factory(unit_share=1.0, empty_share=0.2), 12, 40)
    return folder


def read(made, out, *, form=VALUES, sheet=SHEET, engine=None, **options):
    asking = Asking(sheet, form, **{k: options.pop(k) for k in ("side", "least_score") if k in options})
    return read_photographs([made / "photographs"], asking, engine or KnowingEngine(made), out, **options)


@pytest.mark.parametrize("form", [VALUES, CHARACTERS], ids=lambda form: form.name)
def test_what_a_knowing_model_says_arrives(made, tmp_path, form):
    report = read(made, tmp_path / "out", form=form).report
    numbers = score(compare(report, ReadingTruth.read(made)), report)
    assert (numbers.value_accuracy, numbers.character_accuracy, numbers.unit_accuracy) == (1.0, 1.0, 1.0)
    assert (numbers.wrong_share, numbers.empty_accuracy, numbers.schema_valid) == (0.0, 1.0, 1.0)
    assert numbers.box_iou > 0.97  # whole numbers of 0..1000 on 256 px
    assert numbers.shown == sum(len(photograph.values) for photograph in ReadingTruth.read(made).photographs)


def test_the_report_is_read_back_and_its_values_are_valid(made, tmp_path):
    result = read(made, tmp_path / "out")
    report = InstrumentReport.read(tmp_path / "out")
    assert report == result.report
    validator = Draft202012Validator(report.value_schema)
    assert all(validator.is_valid(photograph.values) for photograph in report.photographs)
    rows = (tmp_path / "out" / "values.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + len(report.photographs) * len(SHEET.fields)
    assert save_pictures(report, tmp_path / "out") == 12


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda text: text.replace('"unit": "', '"unit": "k'), ValueStatus.INVALID),
        (lambda text: text.replace('"text": "', '"text": "9999999'), ValueStatus.INVALID),
        (lambda text: text[: len(text) // 2], ValueStatus.FAILED),
        (lambda text: "I cannot see a display.", ValueStatus.FAILED),
        (lambda text: text.replace("bbox_2d", "box"), ValueStatus.FAILED),
        (lambda text: text.replace('{"bbox_2d": [', '{"bbox_2d": [4000'), ValueStatus.FAILED),
    ],
)
def test_a_wrong_answer_is_never_a_value(made, tmp_path, spoil, status):
    sheet = Sheet.of({"fields": {"temperature": {"unit": "°C", "min": -20, "max": 150}}})
    report = read(made, tmp_path / "out", sheet=sheet, engine=KnowingEngine(made, spoil)).report
    known = {one.name.split("/")[1]: one for one in ReadingTruth.read(made).photographs}
    for photograph in report.photographs:
        if any(value.field == "temperature" for value in known[photograph.name].values):
            one = photograph.readings["temperature"]
            assert (one.status, one.value) == (status, None)
            assert one.reasons
    assert score(compare(report, ReadingTruth.read(made)), report).wrong_share == 0.0


def test_a_shifted_box_and_a_wrong_digit_show_in_the_numbers(made, tmp_path):
    def spoil(text):
        answer = json.loads(text)
        for one in answer.values():
            if one is not None:
                one["bbox_2d"] = [v // 2 for v in one["bbox_2d"]]
                one["text"] = one["text"][:-1] + str((int(one["text"][-1]) + 1) % 10)
        return json.dumps(answer)

    sheet = Sheet.of({"fields": {"mass": {}, "acidity": {}}})
    engine = KnowingEngine(made, lambda text: spoil(text.replace('"g"', "null").replace('"pH"', "null")))
    report = read(made, tmp_path / "out", sheet=sheet, engine=engine).report
    numbers = score(compare(report, ReadingTruth.read(made)), report)
    assert numbers.value_accuracy == 0.0
    assert numbers.wrong_share > 0
    assert 0.5 < numbers.character_accuracy < 0.8
    assert numbers.box_found == 0.0


def test_characters_without_units_are_not_dealt_out(made, tmp_path):
    units = ("°C", "%", "g", "pH", "rpm")

    def spoil(text):
        return json.dumps([item for item in json.loads(text) if item["label"] not in units])

    report = read(made, tmp_path / "out", form=CHARACTERS, engine=KnowingEngine(made, spoil)).report
    statuses = {one.status for photograph in report.photographs for one in photograph.readings.values()}
    assert ValueStatus.READ not in statuses
    assert ValueStatus.INVALID in statuses


def test_an_unreadable_photograph_fails_alone_and_an_upright_one_is_turned(made, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(made / "photographs", mixed)
    (mixed / "0000000.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    report = read_photographs([mixed], Asking(SHEET), KnowingEngine(made), tmp_path / "out").report
    assert [photograph.name for photograph in report.photographs if photograph.error] == ["0000000.jpg"]
    assert report.counts["failed"] == len(SHEET.fields)
    sideways = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(sideways, exif=exif)
    assert load_photograph(sideways).shape == (30, 20, 3)
    assert photograph_size(sideways) == (20, 30)


def test_a_stopped_batch_goes_on_and_asks_nothing_twice(made, tmp_path):
    cancel = threading.Event()
    engine = KnowingEngine(made)
    first = read(made, tmp_path / "out", engine=engine, cancel=cancel, progress=lambda state: cancel.set())
    assert first.cancelled
    assert len(first.report.photographs) == 4
    again = read(made, tmp_path / "out", engine=engine)
    assert not again.cancelled
    assert engine.asked == 12
    assert score(compare(again.report, ReadingTruth.read(made)), again.report).value_accuracy == 1.0


def test_a_folder_belongs_to_one_sheet_and_model(made, tmp_path):
    read(made, tmp_path / "out")
    other = Sheet.of({"fields": {"mass": {"unit": "g"}}})
    with pytest.raises(RunMismatchError):
        read(made, tmp_path / "out", sheet=other)
    read(made, tmp_path / "out", sheet=other, overwrite=True)
    assert InstrumentReport.read(tmp_path / "out.bak-1").counts != {}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").touch()
    with pytest.raises(ForeignFolderError):
        read(made, tmp_path / "mine")


def test_a_batch_of_an_earlier_version_is_named_and_set_aside(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("answers.jsonl", "sheet.yaml"):
        (out / name).write_text("{}\n")
    with pytest.raises(RunMismatchError, match=r"earlier version \(answers.jsonl\)"):
        read(made, out)
    assert {path.name for path in out.iterdir()} == {"answers.jsonl", "sheet.yaml"}
    read(made, out, overwrite=True)
    assert (tmp_path / "out.bak-1" / "answers.jsonl").is_file()


def test_other_limits_and_more_photographs_ask_only_what_is_new(made, tmp_path):
    """What is asked decides what a batch is; limits are looked at when the report is written."""
    engine, few = KnowingEngine(made), tmp_path / "few"
    few.mkdir()
    for path in sorted((made / "photographs").iterdir())[:5]:
        shutil.copy(path, few)
    first = read_photographs([few], Asking(SHEET), engine, tmp_path / "out")
    assert engine.asked == 5
    tight = read_photographs([made / "photographs", few], Asking(SHEET, least_score=0.5), engine, tmp_path / "out")
    assert engine.asked == 12
    assert len(tight.report.photographs) == 17
    assert tight.report.counts["read"] == 0 < first.report.counts["read"]


def test_a_limit_on_the_score_takes_values_without_one_away(made, tmp_path):
    report = read(made, tmp_path / "out", least_score=0.5).report
    assert report.counts["read"] == 0
    assert "less than 0.5" in next(
        one.reasons[0] for p in report.photographs for one in p.readings.values() if one.reasons
    )
    rows = compare(report, ReadingTruth.read(made))
    assert at_least(rows, (0.5,)) == [(0.5, None, None)]


def test_regions_are_cut_out_and_boxes_come_back_in_the_photograph():
    picture = np.zeros((100, 200, 3), np.uint8)
    part = PhotographPart.of((200, 100), (50, 20, 150, 70), 200)
    assert part.cut(picture).shape == (100, 200, 3)
    assert part.in_photograph((0, 0, 200, 100)) == (50, 20, 150, 70)
    assert part.in_photograph((20, 10, 40, 30)) == (60, 25, 70, 35)
    with pytest.raises(PhotographError, match="does not fit"):
        PhotographPart.of((200, 100), (150, 20, 250, 70), None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"a": {"unit": "g"}, "b": {"unit": "g"}}, "not told apart"),
        ({"a": {}, "b": {"unit": "g"}}, "not told apart"),
        ({"a": {"type": "string"}}, "numbers only"),
    ],
)
def test_sheets_that_characters_cannot_answer_are_refused(made, tmp_path, fields, words):
    with pytest.raises(SheetError, match=words):
        read(made, tmp_path / "out", form=CHARACTERS, sheet=Sheet.of({"fields": fields}))
    assert not (tmp_path / "out").exists()


def test_an_evaluation_needs_a_truth_of_these_photographs(made, tmp_path):
    report = read(made, tmp_path / "out").report
    truth = ReadingTruth.read(made)
    with pytest.raises(TruthError, match="does not know"):
        compare(report, truth.model_copy(update={"photographs": truth.photographs[1:]}))
    with pytest.raises(TruthError):
        ReadingTruth.read(tmp_path)


def test_edits():
    cases = {("", ""): 0, ("37.4", "37.4"): 0, ("374", "37.4"): 1, ("87.4", "37.4"): 1, ("", "12"): 2}
    assert {pair: distance(*pair) for pair in cases} == cases


def test_the_grammar_holds_a_true_answer_and_stops_at_a_wrong_one(made):
    from knowing_engine import WRITER

    from qwenvl.checkpoints.loading import load_checkpoint
    from qwenvl.constraints.grammar import Grammars, vocabulary_size
    from qwenvl.images.geometry import CoordinateSpace, PictureFrame
    from workflows.science.instruments.asking import views_of
    from workflows.science.instruments.samples import values_answer

    checkpoint = load_checkpoint("embedded")
    grammars = Grammars(checkpoint.tokenizer, vocabulary_size(checkpoint.model), checkpoint.eos_token_ids)
    few = Sheet.of({"fields": {name: {"unit": SHEET.fields[name].unit} for name in ("temperature", "humidity")}})
    (view,) = views_of(few)
    request = VALUES.request(view, space=CoordinateSpace.RELATIVE_1000)
    frame = PictureFrame.same(256, 256)
    shown = [
        one
        for one in ReadingTruth.read(made).photographs
        if {"temperature", "humidity"} & {v.field for v in one.values}
    ]
    answer = values_answer(shown[0], list(few.fields), WRITER, frame)
    wrong = answer.replace('"text": "', '"text": "about ', 1)

    def taken(text):
        constraint = grammars.constraint(request, [frame], dialect="json", space=CoordinateSpace.RELATIVE_1000)
        ids = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
        return all(constraint.accept(0, token) for token in [*ids, checkpoint.eos_token_ids[0]])

    assert '"bbox_2d"' in answer
    assert taken(answer)
    assert not taken(wrong)
    assert not taken(answer.replace("bbox_2d", "box"))


def test_a_photograph_that_is_rewritten_fails_alone_and_says_so(made, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    first, second = sorted((folder / "photographs").iterdir())[:2]

    def load(path):
        pixels = load_photograph(path)
        if path == first:
            path.write_bytes(second.read_bytes())
        return pixels

    monkeypatch.setattr("workflows.science.instruments.reading.load_photograph", load)
    report = read(folder, tmp_path / "out").report
    errors = {photograph.name: photograph.error for photograph in report.photographs if photograph.error}
    assert list(errors) == [first.name]
    assert "changed while it was read" in errors[first.name]
