"""Studies: one document, validated with every fault named, with a published schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenvl.request import Generation, Request, Task
from workflows.cohort.study.config import Study, effective_request, study_schema
from workflows.errors import StudyError

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "study-1.json"


def test_the_published_schema_is_that_of_the_code() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == study_schema(), (
        "docs/schema/study-1.json is stale: write workflows.cohort.study_schema() to it"
    )


def test_a_study_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "request:\n  task: score\n  prompt: Is there tumor?\n  mpp: 1.0\n"
        "model: {name: some/model, device: cpu}\nslides: {mask: all}\n"
        "quality: {mode: skip, least_focus: 0.4, most_pen: null}\ncluster: {workers: 3}\nexports: [csv]\n"
    )
    study = Study.read(path)
    assert study.request.task is Task.SCORE
    assert (study.model.name, study.slides.mask, study.cluster.workers) == ("some/model", "all", 3)
    assert (study.quality.mode, study.quality.least_focus, study.quality.most_pen) == ("skip", 0.4, None)
    assert Study.model_validate_json(study.model_dump_json()) == study


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("request: [", "cannot be read as YAML"),
        ("- 1", "is no study"),
        ("model: {}", "request: Field required"),
        ("request: {task: detect}", "needs at least one label"),
        ("request: {task: score, prompt: a}\nmodle: {}", "modle"),
        ("request: {task: score, prompt: a}\ncluster: {workers: 0}", "cluster.workers"),
        ("request: {task: score, prompt: a}\nmodel: {server: x, adapter: y}", "neither adapter"),
        ("request: {task: score, prompt: a}\nmodel: {engine: os.system}", "model.engine"),
    ],
)
def test_faults_are_named_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=words.replace(".", r"\.")):
        Study.read(path)
    with pytest.raises(StudyError, match="cannot be read"):
        Study.read(tmp_path / "none.yaml")


def test_the_checkpoint_recommends_what_was_not_given() -> None:
    recommended = {"mpp": 0.25, "tile_size": 256, "overlap": 64, "max_objects": 40, "max_new_tokens": 320}
    bare = effective_request(Request(task="detect", labels=("a",)), recommended)
    assert (bare.mpp, bare.tile_size, bare.overlap, bare.max_objects) == (0.25, 256, 64, 40)
    assert bare.generation.max_new_tokens == 320
    told = effective_request(
        Request(task="detect", labels=("a",), mpp=None, tile_size=128, generation=Generation(max_new_tokens=9)),
        recommended,
    )
    assert (told.mpp, told.tile_size, told.generation.max_new_tokens) == (None, 128, 9), "null is an answer too"
