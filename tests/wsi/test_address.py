"""Addresses stand where paths stand, in every form that passes through a Path."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from wsi import UnsupportedSlideError, open_slide
from wsi.files.address import RemotePath, as_path, may_exist

ADDRESSES = {
    "https://host.org/a/b.zarr": ("https", "b.zarr"),
    "HTTP://host:8000/b.zarr": ("http", "b.zarr"),
    "s3://bucket/a b/c.zarr/A/1/0": ("s3", "0"),
    "gs://bucket/x.svs": ("gs", "x.svs"),
    "file:///data/x.svs": ("file", "x.svs"),
    "dcmweb:https://h/x": ("dcmweb:https", "x"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_survives_being_a_path(text: str) -> None:
    scheme, name = ADDRESSES[text]
    address = as_path(text)
    assert isinstance(address, RemotePath)
    assert (str(address), address.scheme, address.name) == (text, scheme, name)
    for again in (
        as_path(Path(text)),
        as_path(str(Path(text))),
        as_path(address),
        pickle.loads(pickle.dumps(address)),
        copy.deepcopy(address),
        address.absolute(),
        address.resolve(),
        address.expanduser(),
    ):
        assert (str(again), again, hash(again)) == (text, address, hash(address))
    assert os.fspath(address) == text
    assert not address.exists()
    assert may_exist(text)
    assert may_exist(Path(text))


def test_children_and_parents_are_addresses() -> None:
    address = as_path("https://host/a.zarr")
    assert str(address / "A" / "1") == "https://host/a.zarr/A/1"
    assert str((address / "zarr.json").parent) == "https://host/a.zarr"
    assert str(address.with_name("b.zarr")) == "https://host/b.zarr"


@pytest.mark.parametrize(
    "text",
    ["a.svs", "/a/b.svs", "C:/a.svs", "C:\\a.svs", "a:b/c.svs", "odd:/a.svs", "/a/http:/b", "#1 [x] 50%.svs", ""],
)
def test_paths_stay_paths(text: str) -> None:
    assert not isinstance(as_path(text), RemotePath)
    assert as_path(text) == Path(text)


def test_may_exist(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    assert may_exist(tmp_path)
    assert may_exist(tmp_path / "a.zip" / "A" / "1")
    assert not may_exist(tmp_path / "b.zip" / "A")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file:///x/a.zarr", "not from file://.*without file://"),
        ("gs://b/a.zarr", "not from gs://"),
        ("dcmweb:https://x/y", "not from dcmweb:https://"),
        ("http://h/x.svs", "only OME-Zarr folders"),
        ("https://x/y.zarr.zip", "only OME-Zarr folders"),
        ("http://h/a.zarr?x=1", r"with \?"),
    ],
)
def test_other_addresses_get_one_sentence(address: str, words: str) -> None:
    for given in (address, Path(address)):
        with pytest.raises(UnsupportedSlideError, match=words):
            open_slide(given)


def test_what_a_path_would_hide() -> None:
    for address, words in (("foo://x", "not from foo://"), ("s3://", "names no server or bucket")):
        with pytest.raises(UnsupportedSlideError, match=words):
            open_slide(address)
