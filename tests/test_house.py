"""`benchmarks/house.py` counts what was planted in a small project, and changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PROJECT = '[tool.hatch.build.targets.wheel]\npackages = ["a", "b"]\n'
FILES = {
    "a/__init__.py": "from a.one import Alone\n",
    "a/one.py": (
        "from typing import TYPE_CHECKING, Any\n"
        "if TYPE_CHECKING:\n    from b.four import Four\n"
        "class Alone: ...\n"
        "class Twice: ...\n"
        "def late(x: Any) -> Any:\n    from .two import two\n"
    ),
    "a/two.py": "from a.one import Alone\nx = [1,\n     2]  # fmt: skip\n",
    "b/__init__.py": "",
    "b/three.py": "import b.four\nclass Twice: ...\nclass _Own: ...\n",
    "b/four.py": "from a.two import x\nclass Four:\n    class Alone: ...\n",
    "benchmarks/five.py": "class Four: ...\n# fmt: skip\n",
    "tests/test_a.py": "\n" * 9,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_house_counts_what_was_planted(project, benchmark_script):
    rows = {row.name: row for row in benchmark_script("house").measure(project)}
    lines = sum(text.count("\n") for name, text in FILES.items() if name[0] in "ab" and name[1] == "/")
    assert rows["Python lines in the wheel"].value == lines == 17
    assert rows["modules in the wheel"].value == 6
    assert rows["loose files in a package, at most"].value == 2
    assert rows["class names that stand twice"].found == ("Twice: a.one, b.three",)
    assert rows["files in import cycles, deferred imports included"].found == ("a.one - a.two",)
    assert rows["`Any` per 1,000 lines"].value == pytest.approx(2000 / lines)
    assert rows["`# fmt: skip` in the wheel"].value == 1
    assert rows["lines of tests to lines in the wheel"].value == pytest.approx(9 / lines)
    missed = {name for name, row in rows.items() if row.missed}
    assert missed == {
        "class names that stand twice",
        "files in import cycles, deferred imports included",
        "`Any` per 1,000 lines",
    }


def test_the_house_says_by_its_exit_code_whether_a_bar_is_missed(project, benchmark_script, monkeypatch, capsys):
    house = benchmark_script("house")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["house.py", "--list", "--root", str(project)])
    assert house.main() == 1
    assert "Twice: a.one, b.three" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    (project / "a" / "one.py").write_text("class Alone: ...\n", encoding="utf-8")
    assert house.main() == 0
    assert "MISSED" not in capsys.readouterr().out
