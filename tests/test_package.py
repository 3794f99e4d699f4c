"""What ships, and what the packages may not know of each other at run time."""

from __future__ import annotations

import ast
import os
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
        ("napari_qwenvl.read.readers", "torch transformers qtpy"),
    ],
)
def test_importing_a_package_does_not_load(package, forbidden):
    code = f"import sys, {package}; print(*sorted(set({forbidden.split()!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-9", "utf-8"])
def test_the_command_line_speaks_to_a_terminal_of_any_encoding(encoding, tmp_path):
    """Its help has signs such as µ, and a file name may be no text at all: neither may end a command."""
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict", "COLUMNS": "100"}
    command = [sys.executable, "-m", "qwenvl", "info"]
    helped = subprocess.run([*command, "--help"], env=environment, capture_output=True, check=False)
    assert (helped.returncode, helped.stderr) == (0, b"")
    missing = os.fsdecode(os.fsencode(tmp_path) + b"/\xe5\xff.tif")
    refused = subprocess.run([*command, missing], env=environment, capture_output=True, check=False)
    assert refused.returncode == 1
    assert b"does not exist" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_the_napari_manifest_is_valid_and_its_commands_exist():
    manifest = PluginManifest.from_file(ROOT / "napari_qwenvl" / "napari.yaml")
    manifest.validate_imports()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest.name == project["name"]


def test_every_link_between_documents_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_no_text_file_is_read_or_written_in_the_encoding_of_the_locale():
    for package in ("wsi", "qwenvl", "workflows", "finetune", "napari_qwenvl", "recipes"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and _takes_the_locale(call):
                    raise AssertionError(f"{path.relative_to(ROOT)}:{call.lineno} names no encoding")


def _takes_the_locale(call: ast.Call) -> bool:
    """Whether a call opens a text file, or a program's output as text, and names no encoding."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named or None in named:
        return False
    method = isinstance(call.func, ast.Attribute)
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            pass
        case _:
            return False
    if name in ("read_text", "write_text"):
        return method and len(call.args) == (name == "write_text")
    if name in ("run", "Popen", "check_output", "check_call"):
        return bool({"text", "universal_newlines"} & set(named))
    if name != "open" or (method and not named and not call.args):
        return False  # `.open()` alone is also how a dialog or a document opens
    mode = named.get("mode", call.args[not method] if len(call.args) > (not method) else ast.Constant("r"))
    return isinstance(mode, ast.Constant) and re.fullmatch(r"[rwax]t?\+?", str(mode.value)) is not None


def test_the_repository_names_no_place_of_its_making():
    words = re.compile(r"(?<![\w.])/(work|root|home|tmp)/\w")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".json") and path != Path(__file__):
            assert not words.search(path.read_text(encoding="utf-8", errors="replace")), name
