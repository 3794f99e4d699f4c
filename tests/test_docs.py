"""Every Python block in README and docs runs, in order, page by page."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from wsi.synthetic import Scene, write_slide

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if "```python" in page.read_text()
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_run(page, tmp_path, monkeypatch, capsys):
    write_slide(tmp_path / "slide.svs", Scene(128, 128, seed=1), mpp=0.25, downsamples=(1,))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, page.name, "exec"), names)
