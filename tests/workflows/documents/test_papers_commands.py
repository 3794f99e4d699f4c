"""`qwenvl papers`: from a folder of made papers to numbers, and every bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paper_helpers import oracle_engine, small_pdf
from typer.testing import CliRunner, Result

from qwenvl.cli import load_commands
from workflows.science.papers.paper import Paper


def papers(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), ["papers", *(str(arg) for arg in args)])


@pytest.fixture(scope="module")
def url(made):
    with oracle_engine(made) as (_, engine):
        yield engine._client.url.removesuffix("/v1")


def test_make_look_read_evaluate(made, url, tmp_path):
    pdf = made / "paper-001.pdf"
    looked = papers("look", pdf, "-o", tmp_path / "look", "--pages", "1-2")
    assert looked.exit_code == 0, looked.output
    assert "words" in looked.output
    assert "Table 1." in looked.output
    assert len(json.loads((tmp_path / "look" / "layout.json").read_text())) == 2
    assert (tmp_path / "look" / "page-002.png").is_file()
    run = tmp_path / "run"
    dry = papers("read", pdf, "--schema", made / "schema.json", "--server", url, "-o", run, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "questions" in dry.output
    assert not run.exists()
    told = ["read", pdf, "--schema", made / "schema.json", "--key", "gene,method", "--server", url, "-o", run]
    done = papers(*told)
    assert done.exit_code == 0, done.output
    assert "anchored in print" in done.output
    assert papers(*told).exit_code == 0  # nothing is left to ask
    paper = Paper.read(run)
    assert paper.command.startswith("qwenvl")
    assert paper.model.model.startswith("Qwen3-VL-oracle")
    judged = papers("evaluate", run, "--truth", made / "paper-001.truth.json", "-o", tmp_path / "numbers.json")
    assert judged.exit_code == 0, judged.output
    assert "recall 1.000" in judged.output
    assert json.loads((tmp_path / "numbers.json").read_text())["recall"] == 1.0


def test_one_unreadable_paper_of_several_does_not_stop_the_others(made, url, tmp_path):
    locked = small_pdf(tmp_path / "locked.pdf", (50, 50, "TP53"), password="x")
    out = tmp_path / "runs"
    told = ["read", locked, made / "paper-001.pdf", "--schema", made / "schema.json", "--server", url, "-o", out]
    result = papers(*told, "--pages", "1")
    assert result.exit_code == 1
    assert "locked.pdf is encrypted" in result.output
    assert Paper.read(out / "paper-001.run").records


def test_a_password_comes_from_a_file(made, url, tmp_path):
    locked = small_pdf(tmp_path / "locked.pdf", (50, 50, "TP53"), password="hush")
    (tmp_path / "pw").write_text("hush\n")
    told = ["read", locked, "--schema", made / "schema.json", "--server", url, "-o", tmp_path / "run"]
    told += ["--boxes", "none"]  # those of the oracle belong to another page
    assert papers(*told).exit_code == 1
    assert papers(*told, "--password-file", tmp_path / "pw").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (["--pages", "9"], "has pages 1 to", 1),
        (["--boxes", "all"], "none, record or value", 2),
        (["--key", "colour"], "no property of the schema", 1),
        (["--context", "300"], "lower --dpi", 1),
        (["--schema", "missing.json"], "missing.json", 1),
    ],
)
def test_bad_flags(made, url, tmp_path, flags, words, code):
    told = ["read", made / "paper-001.pdf", "--schema", made / "schema.json", "--server", url, "-o", tmp_path / "r"]
    result = papers(*told, *flags)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_papers_are_named(made, tmp_path):
    (tmp_path / "a.pdf").write_text("no PDF")
    result = papers("look", tmp_path / "a.pdf")
    assert result.exit_code == 1
    assert "is no PDF" in result.output
    assert papers("look", tmp_path / "none.pdf").exit_code == 1
    assert papers("evaluate", tmp_path, "--truth", made / "paper-001.truth.json").exit_code == 1


def test_the_embedded_model_keeps_to_the_schema(tmp_path: Path):
    """It cannot read print; what it writes is valid by the schema all the same, and not one value is anchored."""
    pdf = small_pdf(tmp_path / "a.pdf", (40, 60, "TP53 by ELISA (n = 12): 3.5 mg/L"))
    schema = {
        "type": "object",
        "properties": {"gene": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "maximum": 99}},
        "required": ["gene", "n"],
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    told = ["read", pdf, "--schema", tmp_path / "schema.json", "-o", tmp_path / "run", "--dpi", "60"]
    result = papers(*told, "--most-records", 2, "--max-new-tokens", 200, "--temperature", "1.5", "--seed", "3")
    assert result.exit_code == 0, result.output
    paper = Paper.read(tmp_path / "run")
    assert paper.statuses["ok"] == len(paper.windows) == 1
    assert paper.anchors["anchored"] == 0
    assert "not for diagnosis" in result.output
