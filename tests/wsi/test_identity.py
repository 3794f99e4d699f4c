"""The watch over files that are read for a while: what is another content, what is not, and what is said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from http_server import serving
from ngff_files import write_image
from slide_files import tissue, write_ngff

import wsi.files.identity
from wsi import open_slide
from wsi.errors import ReadError, SlideChangedError
from wsi.files.fingerprint import fingerprint_path
from wsi.files.identity import FileWatch

A, B = np.random.default_rng(0).bytes(3_000_000), np.random.default_rng(1).bytes(3_000_000)


def in_place(path: Path) -> None:
    path.write_bytes(B)


def with_times_restored(path: Path) -> None:
    times = path.stat()
    path.write_bytes(B)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def longer(path: Path) -> None:
    path.write_bytes(A + b"more")


def by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(B)
    os.replace(other, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_place, "a was written to"),
        (with_times_restored, "a was written to"),
        (longer, "a has 3,000,004 bytes, and had 3,000,000"),
        (by_rename, "a was replaced by another file"),
    ],
)
def test_another_content_is_named(change: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(A)
    watch = FileWatch.of(path)
    watch.check()
    change(path)
    for ask in (watch.check, watch.confirm):
        with pytest.raises(SlideChangedError, match=words) as caught:
            ask(lambda: "Seven tiles are kept.")
        assert not caught.value.doubtful
        assert "Seven tiles are kept. Put it back" in str(caught.value)


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def copied_over_itself(path: Path) -> None:
    path.write_bytes(A)


def replaced_by_a_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


def renamed_to_and_fro(path: Path) -> None:
    path.rename(path.with_name("b")).rename(path)


@pytest.mark.parametrize("change", [touched, copied_over_itself, replaced_by_a_copy, renamed_to_and_fro])
def test_the_same_content_goes_on_and_is_hashed_once(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(A)
    taken = []

    def take() -> str:
        taken.append(wsi.files.identity.fingerprint_path(path))
        return taken[-1]

    watch = FileWatch(path, (path,), take)
    watch.check()
    assert len(taken) == 1
    change(path)
    watch.check()
    watch.check()
    assert len(taken) == 2
    assert watch.confirm()
    in_place(path)
    with pytest.raises(SlideChangedError):
        watch.check()


def test_a_file_that_is_gone_is_no_change_and_one_that_came_instead_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(A)
    watch = FileWatch.of(path)
    path.unlink()
    watch.check()
    assert not watch.confirm()
    path.write_bytes(B)
    with pytest.raises(SlideChangedError, match=r"replaced by another|written to"):
        watch.check()


def test_what_no_check_can_see_is_doubtful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(A)
    monkeypatch.setattr(wsi.files.identity, "_state_of", lambda path: (0, 0, 0, 0))
    watch = FileWatch.of(path)
    in_place(path)
    watch.check()
    with pytest.raises(SlideChangedError, match=r"its content is another.*may be of either") as caught:
        watch.confirm()
    assert caught.value.doubtful


def zarr_slide(folder: Path) -> Path:
    picture = tissue(300, 200).transpose(2, 0, 1)
    colours = ["ff0000", "00ff00", "0000ff"]
    return write_ngff(folder / "a.zarr", [picture, picture[:, ::2, ::2]], "cyx", omero=colours)


def chunk_rewritten(folder: Path) -> None:
    chunk = next(p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix == "" and p.stat().st_size > 100)
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")


def chunk_removed(folder: Path) -> None:
    next(p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix == "").unlink()


def chunk_added(folder: Path) -> None:
    (folder / "0" / "c" / "9").write_bytes(b"more")


def folder_removed(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [chunk_rewritten, chunk_removed, chunk_added, folder_removed])
def test_a_folder_changes_with_any_of_its_files(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = zarr_slide(tmp_path)
    with open_slide(folder) as slide:
        slide.watch.check()
        change(folder)
        with pytest.raises(SlideChangedError):
            slide.watch.check()


def test_a_large_folder_is_looked_at_in_turn_and_whole_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsi.files.identity, "MOST_FILES", 5)
    folder = zarr_slide(tmp_path)
    with open_slide(folder) as slide:
        number = len(list(folder.rglob("*"))) + 1
        os.utime(folder / "zarr.json", (1, 1))
        for _ in range(number):
            slide.watch.check()  # a touch of one of them
        chunk_rewritten(folder)

        def go_round() -> None:
            for _ in range(-(-number // 5)):
                slide.watch.check()

        with pytest.raises(SlideChangedError) as caught:
            go_round()
        assert caught.value.doubtful
        with pytest.raises(SlideChangedError):
            slide.watch.confirm()


def test_planes_and_colours_share_a_watch_and_every_file_of_a_slide_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    import cv2

    cv2.imwrite(str(path), tissue(200, 200))
    with open_slide(path) as slide:
        assert slide.in_colour("srgb").watch is slide.watch
        assert slide.watch.fingerprint == slide.fingerprint
        cv2.imwrite(str(path), tissue(200, 200, seed=1))
        with pytest.raises(SlideChangedError, match=r"a\.png"):
            slide.watch.check()


def test_an_address_is_fetched_anew_at_the_end(tmp_path: Path) -> None:
    image = np.full((100, 150), 7, np.uint8)
    write_image(tmp_path / "a.zarr", image)
    with serving(tmp_path) as server, open_slide(f"{server.address}/a.zarr") as slide:
        before = slide.fingerprint
        slide.watch.check()
        assert slide.watch.confirm()
        shutil.rmtree(tmp_path / "a.zarr")
        write_image(tmp_path / "a.zarr", image + 1)
        slide.watch.check()
        with pytest.raises(SlideChangedError, match="may be of either") as caught:
            slide.watch.confirm()
        assert before in str(caught.value)
        assert caught.value.doubtful


def test_a_failure_that_a_rewriting_caused_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(A)
    watch = FileWatch.of(path)

    def fail() -> None:
        with watch.held():
            raise ReadError("a chunk is corrupt")

    with pytest.raises(ReadError):
        fail()
    in_place(path)
    with pytest.raises(SlideChangedError) as caught:
        fail()
    assert isinstance(caught.value.__context__, ReadError)


def test_nothing_to_watch_never_complains(tmp_path: Path) -> None:
    watch = FileWatch.nothing(tmp_path / "memory")
    watch.check()
    assert watch.confirm()


def test_a_linked_level_counts(tmp_path: Path) -> None:
    for name in "ab":
        level = tmp_path / f"level of {name}"
        level.mkdir()
        (level / "0.0").write_bytes(name.encode() * 100)
        (level / "back").symlink_to(tmp_path / f"{name}.zarr")
        (tmp_path / f"{name}.zarr").mkdir()
        (tmp_path / f"{name}.zarr" / "0").symlink_to(level)
    assert fingerprint_path(tmp_path / "a.zarr") != fingerprint_path(tmp_path / "b.zarr")
    watch = FileWatch.of(tmp_path / "a.zarr")
    watch.check()
    (tmp_path / "level of a" / "0.0").write_bytes(b"c" * 100)
    with pytest.raises(SlideChangedError, match=r"0\.0"):
        watch.check()
