"""The commands, as a user types them."""

from __future__ import annotations

import json

import pytest
from knowing_engine import KnowingEngine
from typer.testing import CliRunner

from finetune.conversations.formats import read_conversations
from recipes.instruments.__main__ import app as recipe
from workflows.commands import app
from workflows.run import options as run_options


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_options, "load_engine", lambda options: (KnowingEngine(tmp_path / "set"), {}))
    runner = CliRunner()

    def run(*words, code=0, made=False):
        words = words if made else ("instruments", *words)
        result = runner.invoke(recipe if made else app, words, env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_make_read_evaluate(run, tmp_path):
    run("make", "set", "-n", "4", "--units", "1", "--seed", "3", made=True)
    (tmp_path / "sheet.yaml").write_text(
        "fields:\n  temperature: {unit: °C}\n  humidity: {unit: '%'}\n  mass: {unit: g}\n  acidity: {unit: pH}\n"
        "  speed: {unit: rpm}\n",
        encoding="utf-8",
    )
    assert "nothing" not in run("read", "set/photographs", "--sheet", "sheet.yaml", "-o", "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    run("read", "set/photographs", "--sheet", "sheet.yaml", "-o", "out", "--pictures")
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 4
    numbers = json.loads(run("evaluate", "out", "set", "--json"))
    assert numbers["all"]["value_accuracy"] == 1.0
    assert "value accuracy" in run("evaluate", "out", "set")
    run("read", "set/photographs", "--sheet", "sheet.yaml", "-o", "characters", made=True)
    report = json.loads((tmp_path / "characters" / "instruments.json").read_text(encoding="utf-8"))
    assert report["form"] == "characters"
    assert json.loads(run("evaluate", "characters", "set", "--json"))["all"]["value_accuracy"] == 1.0
    run("read", "set/photographs", "--sheet", "sheet.yaml", "-o", "out", "--side", "128", code=1)


def test_samples_are_conversations_that_fine_tuning_reads(run, tmp_path):
    run("make", "set", "-n", "3", "--seed", "1000000", made=True)
    run("samples", "set", "-o", "train.jsonl", made=True)
    conversations = read_conversations(tmp_path / "train.jsonl")
    assert len(conversations) == 3
    assert all(item.sizes == ((256, 256),) for item in conversations)
    run("samples", "set", "-o", "train.jsonl", code=2, made=True)
    (tmp_path / "s.yaml").write_text("fields:\n  mass: {unit: g}\n", encoding="utf-8")
    run("samples", "set", "-o", "values.jsonl", "--sheet", "s.yaml")
    answer = json.loads(read_conversations(tmp_path / "values.jsonl")[0].messages[-1]["content"])
    assert set(answer) == {"mass"}


@pytest.mark.parametrize(
    ("words", "code", "made"),
    [
        (("read", "none.jpg", "--sheet", "s.yaml", "-o", "out"), 1, False),
        (("read", "none.jpg", "--sheet", "s.yaml", "-o", "out"), 1, True),
        (("make", "set", "--size", "big"), 2, True),
        (("samples", ".", "-o", "x.jsonl", "--sheet", "s.yaml"), 1, False),
        (("samples", ".", "-o", "x.jsonl"), 1, True),
        (("evaluate", ".", "."), 1, False),
    ],
)
def test_mistakes_end_in_a_line(run, words, code, made):
    assert "error:" in run(*words, code=code, made=made)
