"""Made papers, once for all tests of documents."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed (extra 'science')")
pytest.importorskip("fpdf", reason="fpdf2 is not installed (extra 'dev')")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one paper with instructions planted in it. Nobody may change it."""
    from recipes.papers import make_papers

    folder = tmp_path_factory.mktemp("papers") / "made"
    make_papers(folder, 1, pages=3, seed=3, injected=True)
    return folder


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one short paper without a text layer."""
    from recipes.papers import make_papers

    folder = tmp_path_factory.mktemp("papers") / "scan"
    make_papers(folder, 1, pages=1, seed=5, scanned=True)
    return folder
