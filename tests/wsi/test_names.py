"""Paths as text: bytes that are no UTF-8 survive the way out and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi.files.names import path_of, path_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.svs", "a.svs"),
        ("Müller", "Müller"),
        ("M\udcfcller", "M\\xfcller"),
        ("a\\xb", "a\\xb"),
        ("😀", "😀"),
        ("half \ud83d", "half \\ud83d"),
        ("", ""),
    ],
)
def test_text_of_names(name: str, text: str) -> None:
    assert path_text(name) == text
    assert text.encode().decode() == text


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_can_be_written(name: str) -> None:
    written = path_text(name)
    assert written.encode().decode() == written
    assert path_text(written) == written


@pytest.mark.skipif(sys.platform != "linux", reason="names as bytes")
def test_the_way_back_finds_the_file(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"M\xfcller\xff.svs")
    odd.write_bytes(b"")
    assert path_of(path_text(odd)) == odd
    literal = tmp_path / "M\\xfcller\\xff.svs"
    literal.write_bytes(b"")
    assert path_of(path_text(odd)) == literal, "a name that is there as written comes first"
    assert path_of(tmp_path / "gone\\xff") == tmp_path / "gone\\xff"
