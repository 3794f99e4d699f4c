"""What a study's model is known by before it is loaded is what the loaded model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenvl.checkpoints.testing import tiny_checkpoint
from qwenvl.engines.local import LocalEngine
from qwenvl.errors import CheckpointError
from workflows.cohort.study.config import ModelSettings
from workflows.cohort.study.engines import look_at, make_engine
from workflows.errors import StudyError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny checkpoint and an adapter of it."""
    import peft

    root = tmp_path_factory.mktemp("models")
    base = tiny_checkpoint("Qwen3-VL", root / "tiny")
    model = LocalEngine.load(base, device="cpu").checkpoint.model
    config = peft.LoraConfig(r=2, target_modules=r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)")
    peft.get_peft_model(model, config).save_pretrained(root / "adapter")
    return {"name": str(base), "adapter": str(root / "adapter")}


@pytest.mark.parametrize("keys", [("name",), ("name", "adapter"), ()])
def test_the_identity_is_that_of_the_loaded_model(folders: dict[str, str], keys: tuple[str, ...]) -> None:
    settings = ModelSettings(device="cpu", **{key: folders[key] for key in keys})
    known = look_at(settings)
    engine = make_engine(settings)
    try:
        info = engine.info
        assert (known.identity.model, known.identity.fingerprint, known.identity.adapter) == (
            info.model,
            info.fingerprint,
            info.adapter,
        )
        assert isinstance(engine, LocalEngine)
        assert dict(known.recommended) == dict(engine.checkpoint.recommended)
    finally:
        engine.close()


def test_a_quantised_model_is_another_one(folders: dict[str, str]) -> None:
    plain = look_at(ModelSettings(name=folders["name"])).identity
    four = look_at(ModelSettings(name=folders["name"], quantise="4bit")).identity
    assert plain.fingerprint != four.fingerprint


def test_engines_of_one_s_own() -> None:
    known = look_at(ModelSettings(engine="cohort_engine:make"), allow_code=True)
    assert (known.identity.model, known.description, dict(known.recommended)) == ("stand-in", None, {})
    for path, words in (
        ("nowhere:make", "cannot be imported"),
        ("cohort_engine:none", "cannot be imported"),
        ("pathlib:Path", "not an Engine"),
    ):
        with pytest.raises(StudyError, match=words):
            make_engine(ModelSettings(engine=path), allow_code=True)
    with pytest.raises(StudyError, match="raised TypeError"):
        make_engine(ModelSettings(engine="operator:index"), allow_code=True)
    with pytest.raises(CheckpointError, match="no adapter"):
        look_at(ModelSettings(adapter="nowhere"))


def test_code_is_imported_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = ModelSettings(engine="study_code:make")
    for use in (look_at, make_engine):
        with pytest.raises(StudyError, match=r"study_code:make.*--allow-code"):
            use(settings)
