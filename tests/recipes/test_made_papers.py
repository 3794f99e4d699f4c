"""The command that makes papers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fpdf", reason="fpdf2 is not installed (extra 'dev')")
ROOT = Path(__file__).resolve().parents[2]


def make(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.papers", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


def test_papers_are_made_in_a_new_folder(tmp_path: Path) -> None:
    made = make(tmp_path / "made", "-n", 1, "--pages", 1)
    assert made.returncode == 0, made.stderr
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {"paper-001.html", "paper-001.pdf", "paper-001.truth.json", "schema.json"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    refused = make(tmp_path / "full")
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
