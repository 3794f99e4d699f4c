"""The request refuses what contradicts itself, and its hash changes with every field."""

import pytest
from pydantic import ValidationError

from qwenvl.prompts import build_prompt
from qwenvl.request import Generation, Request, Task


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
    ],
)
def test_contradictions_are_refused_by_name(fields, named):
    with pytest.raises(ValidationError, match=named):
        Request(**fields)


def test_hash_is_stable_and_sees_every_field():
    request = Request(task=Task.DETECT, labels=("nucleus",), mpp=0.25)
    assert request.hash == Request.model_validate_json(request.model_dump_json()).hash
    changed = {
        "task": Task.POINT, "labels": ("cell",), "prompt": "x", "system_prompt": "y", "mpp": 0.5, "tile_size": 224,
        "overlap": 32, "min_tissue": 0.1, "max_objects": 5, "generation": Generation(max_new_tokens=7),
    }  # fmt: skip
    assert set(changed) | {"output_schema"} == set(Request.model_fields)
    hashes = {request.model_copy(update={key: value}).hash for key, value in changed.items()}
    assert len(hashes | {request.hash}) == len(changed) + 1


def test_a_request_cannot_be_changed():
    with pytest.raises(ValidationError):
        Request(task="describe").mpp = 1.0


def test_prompts_name_what_the_task_needs():
    detect = build_prompt(Request(task="detect", labels=("tumor cell", "lymphocyte")))
    assert '"tumor cell", "lymphocyte"' in detect
    assert "bbox_2d" in detect
    assert "point_2d" in build_prompt(Request(task="point", labels=("a",)))
    assert (
        build_prompt(Request(task="score", prompt="Is there tumor?")) == "Is there tumor? Answer yes or no."
    )
    assert '"b"' in build_prompt(Request(task="classify", labels=("a", "b"), prompt="Which?"))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert '"integer"' in build_prompt(Request(task="extract", output_schema=schema))
    assert build_prompt(Request(task="detect", labels=("a",), prompt="Own words")) == "Own words"
