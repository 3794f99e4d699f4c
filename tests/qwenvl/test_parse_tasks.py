"""What each task takes as an answer, and what it does not."""

from __future__ import annotations

import json

import pytest

from qwenvl.answer import Answer, Status
from qwenvl.images.geometry import CoordinateSpace, PictureFrame
from qwenvl.parse import parse_answer
from qwenvl.request import Request

FRAME = PictureFrame.same(500, 2000)
A = '{"bbox_2d": [100, 200, 300, 400], "label": "mitosis"}'


def parse(text: str, request: Request, finish_reason: str = "stop", dialect: str = "json") -> Answer:
    return parse_answer(
        text, request, dialect=dialect, space=CoordinateSpace.RELATIVE_1000, frame=FRAME, finish_reason=finish_reason
    )


COUNTS = [
    ("12", "ok", 12, ()),
    ("12.", "ok", 12, ()),
    ("**12**", "ok", 12, ()),
    ("12.0", "ok", 12, ()),
    ("1,204", "ok", 1204, ()),
    ("0", "ok", 0, ()),
    ("None.", "ok", 0, ()),
    ("Twelve", "ok", 12, ()),
    ("twenty", "ok", 20, ()),
    ("There are 12 mitoses.", "repaired", 12, ("prose",)),
    ("In tile 3, there are 12 mitoses.", "repaired", 12, ("prose",)),
    ("I count seven.", "repaired", 7, ("prose",)),
    ("There are no mitoses.", "repaired", 0, ("prose",)),
    ("About 10-15 mitoses", "repaired", 10, ("prose", "range")),
    ('{"count": 12}', "repaired", 12, ("keys",)),
    ('```json\n{"mitosis": 3}\n```', "repaired", 3, ("fence", "keys")),
    ('{"label": "mitosis", "count": 3}', "repaired", 3, ("keys",)),
    (f"[{A}]", "repaired", 1, ("listed",)),
    ("[]", "repaired", 0, ("listed",)),
    ("12.5", "failed", None, ("prose",)),
    ("-3", "failed", None, ("prose",)),
    ("99999999999", "failed", None, ()),
    ("I have no idea.", "failed", None, ("prose",)),
    ("Many.", "failed", None, ("prose",)),
    ("There are no mitoses that can be told apart, but I may be wrong.", "failed", None, ("prose",)),
    ('{"count": null}', "failed", None, ("keys",)),
    ('[{"bbox_2d": [1, 2], "label": "mitosis"}]', "failed", None, ("dropped:1:numbers",)),
    ("I'm sorry, I cannot count cells.", "refused", None, ()),
    (f"[{A}, {{", "truncated", 1, ("listed",)),
]


@pytest.mark.parametrize(("text", "status", "value", "notes"), COUNTS, ids=[case[0][:40] for case in COUNTS])
def test_count(text: str, status: str, value: int | None, notes: tuple[str, ...]) -> None:
    answer = parse(text, Request(task="count", labels=("mitosis",)))
    assert (answer.status.value, answer.value, answer.notes) == (status, value, notes)


def test_counts_of_several_labels_are_added_up() -> None:
    request = Request(task="count", labels=("mitosis", "nucleus", "grade 3 gland"))
    text = "There are 2 mitoses, 30 nuclei and 4 grade 3 glands."
    assert parse(text, request).value == 36
    assert parse('{"mitosis": 2, "nuclei": 30}', request).value == 32


def test_a_count_that_the_limit_cut_off_is_not_whole() -> None:
    answer = parse("There are 12", Request(task="count", labels=("mitosis",)), finish_reason="length")
    assert (answer.status.value, answer.value) == ("truncated", 12)
    answer = parse("[]", Request(task="count", labels=("mitosis",)), finish_reason="length")
    assert (answer.status.value, answer.value) == ("truncated", None)


CLASSES = [
    ("stroma", "ok", "stroma"),
    ("Stroma.", "ok", "stroma"),
    ('"Tumor"', "ok", "tumour"),
    ("TUMOUR STROMA", "ok", "tumour stroma"),
    ("tumour_stroma", "ok", "tumour stroma"),
    ('{"class": "stroma"}', "repaired", "stroma"),
    ('```json\n["stroma"]\n```', "repaired", "stroma"),
    ("The class that fits best is stroma.", "repaired", "stroma"),
    ("This is tumour stroma.", "repaired", "tumour stroma"),
    ("Stroma. There is no tumour.", "repaired", "stroma"),
    ("tumour or stroma", "failed", None),
    ("This is not tumour.", "failed", None),
    ("non-tumour", "failed", None),
    ("necrosis", "failed", None),
    ("abstroma", "failed", None),
    ("I'm sorry, I can't classify medical images.", "refused", None),
]


@pytest.mark.parametrize(("text", "status", "label"), CLASSES, ids=[case[0][:40] for case in CLASSES])
def test_classify(text: str, status: str, label: str | None) -> None:
    answer = parse(text, Request(task="classify", labels=("tumour", "stroma", "tumour stroma")))
    assert (answer.status.value, answer.text) == (status, label)
    assert ("ambiguous" in answer.notes) == (text in ("tumour or stroma", "This is not tumour.", "non-tumour"))


def test_a_class_that_may_go_on_is_truncated() -> None:
    request = Request(task="classify", labels=("tumour", "stroma", "tumour stroma"))
    assert parse("tumour", request, "length").status == "truncated"
    assert parse("stroma", request, "length").status == "ok"


SCORES = [
    ("yes", "ok", 1.0),
    ("Yes.", "ok", 1.0),
    ("**No**", "ok", 0.0),
    ("是", "ok", 1.0),
    ("没有", "ok", 0.0),
    ("Yes, two of them.", "repaired", 1.0),
    ("No, there are none.", "repaired", 0.0),
    ("The answer is: no", "repaired", 0.0),
    ('{"answer": "yes"}', "repaired", 1.0),
    ('{"answer": false}', "repaired", 0.0),
    ("No idea.", "failed", None),
    ("Yes and no.", "failed", None),
    ("maybe", "failed", None),
    ("Noticeable atypia", "failed", None),
    ("I cannot answer medical questions.", "refused", None),
]


@pytest.mark.parametrize(("text", "status", "yes"), SCORES, ids=[case[0][:40] for case in SCORES])
def test_score(text: str, status: str, yes: float | None) -> None:
    answer = parse(text, Request(task="score", prompt="Is there a mitosis?"))
    assert answer.status == status
    assert dict(answer.scores) == ({} if yes is None else {"yes": yes})
    assert ("text" in answer.notes) == (yes is not None)


def test_words_keep_the_places_they_name() -> None:
    text = "One <ref>mitosis</ref><box>(100,200),(300,400)</box> beside a vessel [1]."
    answer = parse(text, Request(task="ask", prompt="What is here?"), dialect="tags_v1")
    assert (answer.status.value, answer.text) == ("ok", "One mitosis beside a vessel [1].")
    assert [(item.label, item.box) for item in answer.objects] == [("mitosis", (50, 400, 150, 800))]
    answer = parse("Dense stroma with [1] vessels.", Request(task="describe"))
    assert (answer.status.value, answer.text, answer.objects) == ("ok", "Dense stroma with [1] vessels.", ())


@pytest.mark.parametrize(
    ("text", "finish_reason", "status"),
    [
        ("Dense stroma", "length", "truncated"),
        ("", "stop", "failed"),
        ("As an AI language model, I cannot interpret medical images.", "stop", "refused"),
    ],
)
def test_words_that_are_no_description(text: str, finish_reason: str, status: str) -> None:
    assert parse(text, Request(task="describe"), finish_reason).status == status


SCHEMA = {
    "type": "object",
    "properties": {"grade": {"type": "integer", "maximum": 3}, "note": {"type": ["string", "null"]}},
    "required": ["grade"],
    "additionalProperties": False,
}
EXTRACTS = [
    ('{"grade": 2}', "ok", {"grade": 2}),
    ('```json\n{"grade": 2, "note": null}\n```', "ok", {"grade": 2, "note": None}),
    ('Here it is: {"grade": 2}', "repaired", {"grade": 2}),
    ("{'grade': 2, 'note': None,}", "repaired", {"grade": 2, "note": None}),
    ('{"grade": 9} or rather {"grade": 3}', "repaired", {"grade": 3}),
    ('{"grade": 9}', "failed", None),
    ('{"grade": NaN}', "failed", None),
    ('{"stage": 2}', "failed", None),
    ("grade two", "failed", None),
    ('{"grade": 2, "note": "cut of', "truncated", None),
    ("I'm sorry, I can't do that.", "refused", None),
    ('{"grade": ' + "[" * 5000, "truncated", None),
]


@pytest.mark.parametrize(("text", "status", "value"), EXTRACTS, ids=[case[0][:40] for case in EXTRACTS])
def test_extract(text: str, status: str, value: object) -> None:
    answer = parse(text, Request(task="extract", output_schema=SCHEMA))
    assert (answer.status.value, answer.value) == (status, value)
    assert answer.raw == text
    if status == "failed":
        assert answer.error


def test_extract_names_what_is_invalid() -> None:
    answer = parse('{"grade": 9}', Request(task="extract", output_schema=SCHEMA))
    assert answer.error == "not valid by the schema at $.grade: 9 is greater than the maximum of 3"


def test_objects_keep_score_and_attributes() -> None:
    text = (
        '[{"bbox_2d": [100, 200, 300, 400], "label": "mitosis", "confidence": 0.5, "phase": "meta",'
        ' "count": 2, "tags": ["a"], "empty": null, "score": 7}]'
    )
    (found,) = parse(text, Request(task="detect", labels=("mitosis",))).objects
    assert (found.score, dict(found.attributes)) == (0.5, {"phase": "meta", "count": 2, "score": 7})


def test_no_more_objects_than_asked_for() -> None:
    boxes = ", ".join(f'{{"bbox_2d": [{x}, 0, {x + 5}, 9], "label": "mitosis"}}' for x in range(50))
    answer = parse(f"[{boxes}]", Request(task="detect", labels=("mitosis",), max_objects=20))
    assert (answer.status.value, len(answer.objects), answer.notes) == ("truncated", 20, ("capped:30",))
    assert answer.objects[0].box == (0, 0, 2.5, 18)


def test_labels_that_differ_in_their_ending_stay_apart() -> None:
    request = Request(task="detect", labels=("grade i", "grade ii", "nucleus", "nuclei"))
    for written, label in [
        ("Grade I", "grade i"),
        ("grade II", "grade ii"),
        ("nuclei", "nuclei"),
        ("Nucleus", "nucleus"),
    ]:
        answer = parse(f'[{{"bbox_2d": [1, 2, 3, 4], "label": "{written}"}}]', request)
        assert [item.label for item in answer.objects] == [label]


def test_measures_and_reasoning_are_passed_on() -> None:
    answer = parse_answer(
        f"I look.</think>[{A}]",
        Request(task="detect", labels=("mitosis",)),
        dialect="json",
        space=CoordinateSpace.RELATIVE_1000,
        frame=FRAME,
        thinking=("<think>", "</think>"),
        prompt_tokens=7,
        new_tokens=5,
        seconds=0.5,
    )
    assert (answer.reasoning, answer.prompt_tokens, answer.new_tokens, answer.seconds) == ("I look.", 7, 5, 0.5)
    unfinished = parse_answer(
        f"Let me see: [{A}]",
        Request(task="detect", labels=("mitosis",)),
        dialect="json",
        space=CoordinateSpace.RELATIVE_1000,
        frame=FRAME,
        finish_reason="length",
        thinking=("<think>", "</think>"),
    )
    assert (unfinished.status.value, unfinished.objects) == ("truncated", ())
    assert unfinished.reasoning == f"Let me see: [{A}]"


def test_unknown_dialect_is_an_error() -> None:
    with pytest.raises(ValueError, match="use one of json, tags_v1, tags_v2"):
        parse("[]", Request(task="detect", labels=("mitosis",)), dialect="xml")


ODD = {
    "1e400": ('{"a": 1e400}', Status.FAILED, None),
    "NaN": ('{"a": NaN}', Status.FAILED, None),
    "Infinity in a field that may be null": ('{"b": Infinity}', Status.REPAIRED, {"b": None}),
    "400 digits": (f'{{"a": {"9" * 400}}}', Status.FAILED, None),
    "lone surrogate": ('{"c": "x\\ud800"}', Status.REPAIRED, {"c": "x?"}),
    "lone surrogate in a key": ('{"\\udfff": {"\\ud800": 1e999}}', Status.REPAIRED, {"?": {"?": None}}),
    "NUL": ('{"c": "x\\u0000y"}', Status.REPAIRED, {"c": "xy"}),
    "depth 1,000": ('{"d": ' * 1000 + "1" + "}" * 1000, Status.TRUNCATED, None),
    "a key twice": ('{"a": 1, "a": 2}', Status.FAILED, None),
    "an astronomic multiple": ('{"m": 1e308}', Status.FAILED, None),
}


@pytest.mark.parametrize(("text", "status", "value"), ODD.values(), ids=ODD.keys())
def test_odd_values_are_cleaned_or_fail_alone(text: str, status: Status, value: object) -> None:
    numbers = {"a": {"type": "number"}, "m": {"multipleOf": 1e-10}}
    request = Request(task="extract", output_schema={"type": "object", "properties": numbers})
    answer = parse_answer(
        text, request, dialect="json", space=CoordinateSpace.RELATIVE_1000, frame=PictureFrame.same(100, 100)
    )
    assert (answer.status, answer.value) == (status, value)
    json.dumps(answer.value, allow_nan=False).encode()


def test_odd_attributes_are_cleaned() -> None:
    text = (
        '[{"bbox_2d": [1, 2, 300, 400], "label": "mitosis", "a": 1e400, "b\\ud800": "\\udfff", "c": NaN, "d": '
        + "7" * 400
        + "}]"
    )
    answer = parse_answer(
        text,
        Request(task="detect", labels=("mitosis",)),
        dialect="json",
        space=CoordinateSpace.RELATIVE_1000,
        frame=PictureFrame.same(100, 100),
    )
    assert answer.status is Status.REPAIRED
    assert dict(answer.objects[0].attributes) == {"b?": "?"}
