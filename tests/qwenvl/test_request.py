"""The request refuses what contradicts itself, and its hash changes with every field."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from qwenvl.images.marks import Mark
from qwenvl.prompts import build_prompt
from qwenvl.request import _FIRST_FIELDS, Generation, Request, Task, Where


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"task": "detect"}, "labels"),
        ({"task": "detect", "labels": ("a", "a")}, "labels"),
        ({"task": "classify", "labels": ("a",)}, "labels"),
        ({"task": "score"}, "prompt"),
        ({"task": "ask"}, "prompt"),
        ({"task": "extract"}, "output_schema"),
        ({"task": "describe", "output_schema": {}}, "output_schema"),
        ({"task": "extract", "output_schema": {"type": "no such type"}}, "output_schema"),
        ({"task": "describe", "tile_size": 100, "overlap": 51}, "overlap"),
        ({"task": "describe", "mpp": 0}, "mpp"),
        ({"task": "describe", "unknown": 1}, "unknown"),
        ({"task": "describe", "split": 1}, "split"),
        ({"task": "describe", "where": {}}, "where"),
        ({"task": "describe", "where": {"question": "Tumor?", "labels": ("a", "b"), "wanted": ("a",)}}, "where"),
        ({"task": "describe", "where": {"labels": ("a", "b")}}, "wanted"),
        ({"task": "describe", "where": {"labels": ("a", "b"), "wanted": ("c",)}}, "wanted"),
        ({"task": "describe", "where": {"labels": ("a",), "wanted": ("a",)}}, "two different"),
        ({"task": "describe", "where": {"question": "Tumor?", "overlap": 300}}, "overlap"),
        ({"task": "describe", "token_budget": 0}, "token_budget"),
    ],
)
def test_contradictions_are_refused_by_name(fields, named):
    with pytest.raises(ValidationError, match=named):
        Request(**fields)


def test_hash_is_stable_and_sees_every_field():
    request = Request(task=Task.DETECT, labels=("nucleus",), mpp=0.25)
    assert request.hash == Request.model_validate_json(request.model_dump_json()).hash
    changed = {
        "task": Task.POINT,
        "labels": ("cell",),
        "prompt": "x",
        "system_prompt": "y",
        "mpp": 0.5,
        "tile_size": 224,
        "overlap": 32,
        "min_tissue": 0.1,
        "max_objects": 5,
        "generation": Generation(max_new_tokens=7),
        "split": 1,
        "crowded": 20,
        "where": Where(question="Is there tumor?"),
        "token_budget": 1000,
        "marks": (Mark.point(1, 2),),
        "colour": "srgb",
    }
    assert set(changed) | {"output_schema", "calibration"} == set(Request.model_fields)
    hashes = {request.model_copy(update={key: value}).hash for key, value in changed.items()}
    assert len(hashes | {request.hash}) == len(changed) + 1


def test_requests_of_the_first_release_keep_their_hash():
    request = Request(task="detect", labels=("nucleus",), mpp=0.25)
    later = {"split", "crowded", "where", "token_budget", "calibration", "marks", "colour"}
    first = json.loads(request.model_dump_json(exclude=later))
    text = json.dumps(first, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert set(first) == _FIRST_FIELDS
    assert request.hash == f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    assert Request.model_validate(first).hash == request.hash


def test_a_request_cannot_be_changed():
    with pytest.raises(ValidationError):
        Request(task="describe").mpp = 1.0


def test_prompts_name_what_the_task_needs():
    detect = build_prompt(Request(task="detect", labels=("tumor cell", "lymphocyte")))
    assert '"tumor cell", "lymphocyte"' in detect
    assert "bbox_2d" in detect
    assert "point_2d" in build_prompt(Request(task="point", labels=("a",)))
    assert build_prompt(Request(task="score", prompt="Is there tumor?")) == "Is there tumor? Answer yes or no."
    assert '"b"' in build_prompt(Request(task="classify", labels=("a", "b"), prompt="Which?"))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert '"integer"' in build_prompt(Request(task="extract", output_schema=schema))
    assert build_prompt(Request(task="detect", labels=("a",), prompt="Own words")) == "Own words"
