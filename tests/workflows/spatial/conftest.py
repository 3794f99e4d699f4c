"""Fixtures of the tests of spatial transcriptomics. The modules are skipped where the extra 'science' is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.science.spatial.sections.listing import SectionEntry


@pytest.fixture(scope="session")
def section_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slide of the planted sections. Nobody may change it."""
    from spatial_files import write_section_slide

    return write_section_slide(tmp_path_factory.mktemp("slide") / "section.png")


@pytest.fixture(scope="session")
def visium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Space Ranger folder. Nobody may change it."""
    from spatial_files import VisiumFolder

    return VisiumFolder.planted().write(tmp_path_factory.mktemp("visium") / "planted")


@pytest.fixture
def entry(visium: Path, section_slide: Path) -> SectionEntry:
    return SectionEntry(visium, section_slide, "planted")
