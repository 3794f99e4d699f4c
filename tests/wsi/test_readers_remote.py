"""OME-Zarr at addresses, from a server on this machine with planted faults."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from http_server import Fault, Handler, Server, serving
from ngff_files import write_image, write_metadata, write_zarr
from slide_files import halved, tissue, write_ngff
from test_readers_ngff_images import bioformats2raw, flat, plate, value_of

from wsi import PlaneError, ReadError, SlideNotFoundError, UnsupportedSlideError, open_slide
from wsi.errors import SlideError
from wsi.readers.ngff import remote

pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")
IMAGE = tissue(150, 100)
RGB = ["FF0000", "00FF00", "0000FF"]
METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    levels = [np.moveaxis(each, -1, 0) for each in (IMAGE, halved(IMAGE, 2))]
    for version in ("0.4", "0.5"):
        write_ngff(root / f"{version}.zarr", levels, "cyx", version=version, omero=RGB)
    write_zarr(
        root / "shards.zarr",
        {"0": levels[0]},
        {
            "version": "0.5",
            "multiscales": [{"axes": [{"name": a} for a in "cyx"], "datasets": [{"path": "0"}]}],
            "omero": {"channels": [{"color": color} for color in RGB]},
        },
        chunks=(1, 32, 32),
        shards=(3, 64, 64),
    )
    bioformats2raw(root / "numbers.zarr", False, count=12)
    bioformats2raw(root / "listed.zarr", True, count=3, series=["2", "0"], names=["first", "second"])
    plate(root / "plate.zarr", True)
    return root


def is_chunk(name: str) -> bool:
    return name.rpartition("/")[2] not in METADATA and not name.endswith(".xml")


def on_chunks(answer: Callable[[Handler, str, int], Any]) -> Fault:
    def fault(handler: Handler, name: str, count: int) -> bool:
        if not is_chunk(name):
            return False
        answer(handler, name, count)
        return True

    return fault


@pytest.mark.parametrize("name", ["0.4.zarr", "0.5.zarr", "shards.zarr"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_slide_reads_as_from_disk_and_only_what_is_asked(folder: Path, name: str, ranges: bool) -> None:
    with serving(folder, ranges=ranges) as server, open_slide(f"{server.address}/{name}") as slide:
        assert not any(is_chunk(asked) for asked in server.asked)
        assert str(slide.path) == f"{server.address}/{name}"
        assert slide.path.name == name
        np.testing.assert_array_equal(slide.read(0, 0, 20, 20), IMAGE[:20, :20])
        near = {asked for asked in server.asked if is_chunk(asked)}
        np.testing.assert_array_equal(slide.read(0, 0, 150, 100), IMAGE)
        assert len(near) < len({asked for asked in server.asked if is_chunk(asked)})
        before = server.asked.copy()
        slide.read(0, 0, 20, 20)
        if name != "shards.zarr":
            assert server.asked == before  # kept, since tiles share chunks
        with pickle.loads(pickle.dumps(slide)) as again:
            np.testing.assert_array_equal(again.read(30, 20, 60, 70), IMAGE[20:90, 30:90])
        with open_slide(Path(f"{server.address}/{name}")) as same, open_slide(folder / name) as local:
            assert same.fingerprint == slide.fingerprint
            assert same.levels == local.levels
            assert same.mpp_xy == local.mpp_xy


def test_fingerprint_follows_the_content_not_the_server(tmp_path: Path) -> None:
    found = []
    for number, values in enumerate((flat(1), flat(1), flat(2))):
        root = tmp_path / str(number)
        root.mkdir()
        write_image(root / "a.zarr", values)
        with serving(root) as server, open_slide(f"{server.address}/a.zarr") as slide:
            found.append(slide.fingerprint)
    assert found[0] == found[1] != found[2]


def busy(handler: Handler, name: str, count: int) -> bool:
    if count <= 2:
        handler.send(503 if count == 1 else 429, b"busy")
    return count <= 2


def broken_once(handler: Handler, name: str, count: int) -> bool:
    if count == 1 and (handler.server.root / name).is_file():
        body = (handler.server.root / name).read_bytes()
        handler.send(200, body[: len(body) // 2], announced=len(body))
        return True
    return False


@pytest.mark.parametrize("fault", [busy, broken_once])
def test_what_passes_is_tried_again(folder: Path, fault: Fault) -> None:
    with serving(folder, fault) as server, open_slide(f"{server.address}/0.5.zarr") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 150, 100), IMAGE)


CHUNK_FAULTS: dict[str, tuple[Callable[[Handler, str, int], Any], str]] = {
    "500": (lambda h, name, n: h.send(500, b"no"), r"answers 500 .*, 4 times"),
    "403": (lambda h, name, n: h.send(403, b"no"), r"answers 403"),
    "410": (lambda h, name, n: h.send(410, b"gone"), r"answers 410"),
    "short": (lambda h, name, n: h.send(200, b"abc", announced=1000), r"less data than it announces, 4 times"),
    "cut": (lambda h, name, n: h.send(200, (h.server.root / name).read_bytes()[:50]), r"damaged"),
    "empty": (lambda h, name, n: h.send(200, b""), r"is empty"),
    "page": (lambda h, name, n: h.send(200, b"\n<!DOCTYPE html><html>log in</html>"), r"web page"),
    "slow": (lambda h, name, n: h.slow(5), r"does not answer within 0.2 s, 4 times"),
    "hang up": (lambda h, name, n: setattr(h, "close_connection", True), r"less data|cannot be reached"),
}


@pytest.mark.parametrize("kind", CHUNK_FAULTS)
def test_failures_of_chunks_are_named_and_never_filled(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, words = CHUNK_FAULTS[kind]
    if kind == "slow":
        monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    with serving(folder, on_chunks(answer)) as server:
        with open_slide(f"{server.address}/0.5.zarr") as slide, pytest.raises(ReadError, match=words) as caught:
            slide.read(0, 0, 50, 50)
        assert f"{server.address}/0.5.zarr" in str(caught.value)
        asked = [count for name, count in server.asked.items() if is_chunk(name)]
        # The client itself sends a request once more where the connection was closed on it.
        assert max(asked) <= remote.TRIES * (2 if kind == "hang up" else 1)
        if kind in ("403", "410"):
            assert max(asked) == 1


def test_a_chunk_that_is_not_known_is_the_fill_value(folder: Path) -> None:
    def fault(handler: Handler, name: str, count: int) -> bool:
        if name.endswith("c/0/0/1"):
            handler.send(404, b"<html>not here</html>")
            return True
        return False

    with serving(folder, fault) as server, open_slide(f"{server.address}/0.5.zarr") as slide:
        wanted = IMAGE.copy()
        wanted[:64, 64:128, 0] = 0
        np.testing.assert_array_equal(slide.read(0, 0, 150, 100), wanted)


ROOT_FAULTS: dict[str, tuple[Callable[[Handler, str, int], Any], type[SlideError], str]] = {
    "404": (lambda h, name, n: h.send(404, b""), SlideNotFoundError, "no OME-Zarr group"),
    "403": (lambda h, name, n: h.send(403, b""), SlideNotFoundError, r"answers 403 \(Forbidden\)"),
    "401": (lambda h, name, n: h.send(401, b""), SlideNotFoundError, r"answers 401"),
    "500": (lambda h, name, n: h.send(500, b""), ReadError, r"answers 500 .*4 times"),
    "page": (lambda h, name, n: h.send(200, b"<html></html>"), SlideNotFoundError, r"web page \(HTML\)"),
    "no json": (lambda h, name, n: h.send(200, b'{"zarr_format": 3'), UnsupportedSlideError, "cannot be read"),
    "a number": (lambda h, name, n: h.send(200, b"7"), UnsupportedSlideError, "cannot be read"),
    "hang up": (lambda h, name, n: setattr(h, "close_connection", True), ReadError, "less data|cannot be reached"),
}


@pytest.mark.parametrize("kind", ROOT_FAULTS)
def test_failures_of_the_root_are_named(folder: Path, kind: str) -> None:
    answer, error, words = ROOT_FAULTS[kind]

    def fault(handler: Handler, name: str, count: int) -> bool:
        answer(handler, name, count)
        return True

    with serving(folder, fault) as server, pytest.raises(error, match=words) as caught:
        open_slide(f"{server.address}/0.5.zarr")
    assert f"{server.address}/0.5.zarr" in str(caught.value)


def test_a_server_with_pages_for_missing_keys_is_read(folder: Path) -> None:
    def fault(handler: Handler, name: str, count: int) -> bool:
        if (handler.server.root / name).is_file():
            return False
        handler.send(200, b"<!doctype html><html></html>")
        return True

    for status_fault in (fault, lambda h, n, c: (not (h.server.root / n).is_file()) and (h.send(403, b"") or True)):
        with serving(folder, status_fault) as server, open_slide(f"{server.address}/0.4.zarr") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 150, 100), IMAGE)


def test_nobody_answers() -> None:
    with pytest.raises(ReadError, match=r"http://127\.0\.0\.1:1/a\.zarr.*cannot be reached"):
        open_slide("http://127.0.0.1:1/a.zarr")


def test_images_at_an_address(folder: Path) -> None:
    with serving(folder) as server:
        numbers, listed, wells = (f"{server.address}/{name}.zarr" for name in ("numbers", "listed", "plate"))
        with pytest.raises(PlaneError, match="12 images"):
            open_slide(numbers)
        assert [value_of(numbers, number) for number in (2, 9, 10)] == [20, 90, 100]
        with pytest.raises(PlaneError, match="0: first, 1: second"):
            open_slide(listed)
        assert [value_of(listed, number) for number in (0, 1)] == [20, 0]
        with pytest.raises(PlaneError, match=r"plate\.zarr/A/1/0") as caught:
            open_slide(wells)
        assert "2 wells" in str(caught.value)
        assert value_of(f"{wells}/B/03/1") == 11
        with pytest.raises(PlaneError, match=r"well of 2 fields"):
            open_slide(f"{wells}/B/03")
        assert value_of(f"{wells}/B/03", 1) == 11


def test_paths_out_of_the_address_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", flat(1))
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "../b.zarr/0"}]}
    write_metadata(path, {"version": "0.5", "multiscales": [image]}, True)
    with serving(tmp_path) as server, pytest.raises(UnsupportedSlideError, match="leaves"):
        open_slide(f"{server.address}/a.zarr")


def test_slides_that_are_dropped_leave_no_connection(folder: Path) -> None:
    with serving(folder) as server:
        for _ in range(3):
            open_slide(f"{server.address}/0.5.zarr").read(0, 0, 9, 9)
            gc.collect()
        slide = open_slide(f"{server.address}/0.5.zarr")
        slide.close()
        with pytest.raises(ReadError, match="closed"):
            slide.read(0, 0, 9, 9)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UnsupportedSlideError, match=r"pip install 'napari-qwenvl\[remote\]'"):
        open_slide("http://127.0.0.1:1/a.zarr")


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 endpoint that serves the folder as the bucket 'bucket', without credentials."""
    pytest.importorskip("s3fs", reason="the extra 'remote' is not installed")

    def fault(handler: Handler, name: str, count: int) -> bool:
        key = name.removeprefix("bucket/")
        file = folder / key
        if "broken" in key and count <= 2:
            handler.send(503, b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>", kind="application/xml")
        elif "denied" in key:
            text = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            handler.send(403, text, kind="application/xml")
        elif not name.startswith("bucket/") or not file.is_file():
            text = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
            handler.send(404, text, kind="application/xml")
        else:
            return False
        return True

    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    root = folder.parent / "buckets"
    root.mkdir(exist_ok=True)
    if not (root / "bucket").exists():
        (root / "bucket").symlink_to(folder)
    with serving(root, fault) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        yield server


def test_a_bucket(bucket: Server) -> None:
    for name in ("0.4.zarr", "0.5.zarr", "shards.zarr"):
        with open_slide(f"s3://bucket/{name}") as slide:
            np.testing.assert_array_equal(slide.read(0, 0, 150, 100), IMAGE)
            assert str(slide.path) == f"s3://bucket/{name}"
    assert value_of("s3://bucket/plate.zarr/B/03/1") == 11
    assert any(name.startswith("bucket/0.5.zarr/0/c/") for name in bucket.asked)
    with pytest.raises(SlideNotFoundError, match=r"s3://bucket/none\.zarr"):
        open_slide("s3://bucket/none.zarr")
    with pytest.raises(SlideNotFoundError, match=r"s3://bucket/denied\.zarr answers 403"):
        open_slide("s3://bucket/denied.zarr")


def test_zarr_reads_what_we_read(folder: Path) -> None:
    """The reference: zarr on the same folder."""
    array = zarr.open_group(str(folder / "shards.zarr"), mode="r")["0"]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(array[:]), 0, -1), IMAGE)
