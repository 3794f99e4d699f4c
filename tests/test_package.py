"""What ships, and what the packages may not know of each other at run time."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("wsi", "torch transformers napari qtpy"),
        ("wsi.synthetic", "torch transformers napari qtpy"),
        ("qwenvl", "torch transformers napari qtpy wsi workflows"),
        ("workflows", "torch transformers napari qtpy"),
        ("napari_qwenvl.readers", "torch transformers qtpy"),
    ],
)
def test_importing_a_package_does_not_load(package, forbidden):
    code = f"import sys, {package}; print(*sorted(set({forbidden.split()!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_the_napari_manifest_is_valid_and_its_commands_exist():
    manifest = PluginManifest.from_file(ROOT / "napari_qwenvl" / "napari.yaml")
    manifest.validate_imports()
    assert manifest.name == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]


def test_every_link_between_documents_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_repository_names_no_place_of_its_making():
    words = re.compile(r"(?<![\w.])/(work|root|home|tmp)/\w")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".json") and path != Path(__file__):
            assert not words.search(path.read_text(errors="replace")), name
