"""A slide that is rewritten while it is read: no answer of another content is stored, and no report names one slide."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from run_helpers import CountingEngine, request_of

import wsi.files.identity
from qwenvl.request import Task, Where
from workflows.errors import RunMismatchError, SlideMismatchError
from workflows.report.report import Report
from workflows.run.slide import finish_run, run_slide
from workflows.store.run_store import RunStore
from wsi.errors import SlideChangedError

SIDE = 700
REQUEST = request_of(Task.DETECT, mpp=None)


def write(path: Path, seed: int) -> Path:
    """A tiled TIFF whose bytes are as many whatever the seed."""
    picture = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    tifffile.imwrite(path, picture, tile=(128, 128), photometric="rgb")
    return path


def write_zarr(path: Path, seed: int) -> Path:
    picture = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    array = group.create_array("0", shape=(3, SIDE, SIDE), chunks=(1, 128, 128), dtype=np.uint8, compressors=None)
    array[...] = picture.transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = {"type": "scale", "scale": [1.0, 0.5, 0.5]}
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}], "name": "a"}
    omero = {"channels": [{"color": colour} for colour in ("ff0000", "00ff00", "0000ff")]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image], "omero": omero}
    return path


class Acting(CountingEngine):
    """Does something while it answers the n-th batch, after the batch was read."""

    def __init__(self, at: int, act: Callable[[], Any]) -> None:
        super().__init__(6, batch=4)
        self._at, self._act = at, act

    def answer(self, pictures: Any, request: Any) -> Any:
        told = super().answer(pictures, request)
        if self.calls == self._at:
            self._act()
        return told


def restored(path: Path) -> None:
    times = path.stat()
    write(path, 2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def renamed(path: Path) -> None:
    os.replace(write(path.with_name("other.tif"), 2), path)


def cut_off(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(200_000)


CHANGES = {
    "in place": lambda path: write(path, 2),
    "times restored": restored,
    "by rename": renamed,
    "cut off": cut_off,
}


def asked(slide: Path, out: Path, engine: Any, **more: Any) -> Any:
    return run_slide(slide, REQUEST, engine, out, mask="all", overview=False, **more)


@pytest.mark.parametrize("how", CHANGES)
def test_no_answer_of_another_content_is_stored(how: str, tmp_path: Path) -> None:
    slide, out = write(tmp_path / "a.tif", 1), tmp_path / "run"
    kept = slide.read_bytes()
    calm = asked(slide, tmp_path / "calm", CountingEngine(6, batch=4))
    engine = Acting(2, lambda: CHANGES[how](slide))
    with pytest.raises(SlideChangedError, match=r"a\.tif changed while it was read") as caught:
        asked(slide, out, engine)
    assert "Answers stored so far (4 items) are of the file as it was. Put it back" in str(caught.value)
    assert engine.calls == 2
    assert not (out / "report.json").exists()
    with RunStore.open(out) as store:
        assert len(store.finished()) == 4
        assert not len(store.failed()), "the file changed; no tile failed"
        assert not store.doubts()
    if how == "cut off":
        with pytest.raises(Exception, match=r"a\.tif"):
            asked(slide, out, CountingEngine(6, batch=4))
    else:
        with pytest.raises(RunMismatchError, match="slide"):
            asked(slide, out, CountingEngine(6, batch=4))
    slide.write_bytes(kept)
    again = asked(slide, out, CountingEngine(6, batch=4))
    assert again.report.result() == calm.report.result()
    assert again.asked == calm.asked - 4


def test_a_touch_goes_on(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.tif", 1)
    calm = asked(slide, tmp_path / "calm", CountingEngine(6, batch=4))
    touched = asked(slide, tmp_path / "run", Acting(2, lambda: os.utime(slide, (1, 1))))
    assert touched.report.result() == calm.report.result()


def test_a_chunk_of_a_zarr_counts(tmp_path: Path) -> None:
    slide = write_zarr(tmp_path / "a.zarr", 1)
    chunk = slide / "0" / "c" / "1" / "5" / "5"
    engine = Acting(1, lambda: chunk.write_bytes(bytes(len(chunk.read_bytes()))))
    with pytest.raises(SlideChangedError, match="5 was written to"):
        asked(slide, tmp_path / "run", engine)
    assert not (tmp_path / "run").exists(), "a run without answers leaves nothing"


def test_a_zarr_that_is_gone_never_reads_as_an_empty_image(tmp_path: Path) -> None:
    slide = write_zarr(tmp_path / "a.zarr", 1)
    with pytest.raises(SlideChangedError, match="no longer there"):
        asked(slide, tmp_path / "run", Acting(1, lambda: shutil.rmtree(slide)))


def test_a_file_that_is_gone_is_read_to_its_end_and_said(tmp_path: Path) -> None:
    slide = write(tmp_path / "a.tif", 1)
    calm = asked(slide, tmp_path / "calm", CountingEngine(6, batch=4))
    result = asked(slide, tmp_path / "run", Acting(2, slide.unlink))
    assert result.report.results == calm.report.results
    assert "could not be read again at the end" in " ".join(result.report.warnings)


def test_no_report_where_the_slide_changes_after_the_last_batch(tmp_path: Path) -> None:
    slide, out = write(tmp_path / "a.tif", 1), tmp_path / "run"
    kept = slide.read_bytes()

    def last(state: Any) -> None:
        if state.done == state.total:
            write(slide, 2)

    with pytest.raises(SlideChangedError, match="Answers stored so far"):
        asked(slide, out, CountingEngine(6, batch=4), progress=last)
    assert not (out / "report.json").exists()
    slide.write_bytes(kept)
    result = asked(slide, out, CountingEngine(6, batch=4))
    assert result.complete
    assert not result.asked


def test_answers_that_may_be_of_either_are_kept_and_never_called_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that shows no change: only the fingerprint at the end does."""
    monkeypatch.setattr(wsi.files.identity, "_state_of", lambda path: (0, 0, 0, 0))
    slide, out = write(tmp_path / "a.tif", 1), tmp_path / "run"
    kept = slide.read_bytes()
    with pytest.raises(SlideChangedError, match="may be of either"):
        asked(slide, out, Acting(2, lambda: write(slide, 2)))
    with RunStore.open(out) as store:
        assert len(store.finished()) == 16
        assert len(store.doubts()) == 1
    slide.write_bytes(kept)
    with pytest.raises(RunMismatchError, match=r"two contents of one file.*may be of either"):
        asked(slide, out, CountingEngine(6, batch=4))
    report = finish_run(out)
    assert not report.complete
    assert "may be of either" in report.warnings[0]
    assert asked(slide, out, CountingEngine(6, batch=4), overwrite=True).complete


def test_the_coarse_tiles_of_a_cascade_are_watched_too(tmp_path: Path) -> None:
    slide, out = write(tmp_path / "a.tif", 1), tmp_path / "run"
    where = Where(question="Is there tumour?", mpp=1.0, tile_size=224, threshold=0.1)
    request = request_of(Task.DETECT, where=where)
    with pytest.raises(SlideChangedError):
        run_slide(slide, request, Acting(1, lambda: write(slide, 2)), out, mask="all", slide_mpp=0.5)
    assert not (out / "report.json").exists()
    assert not (out / "where" / "report.json").exists()


def test_a_run_and_its_slide_move_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = tmp_path / "old"
    (old / "slides" / "b").mkdir(parents=True)
    slide = write(old / "slides" / "b" / "a.tif", 1)
    run_slide(slide, REQUEST, CountingEngine(6, batch=4), old / "runs" / "a.run", mask="all")
    new = old.rename(tmp_path / "new")
    run = new / "runs" / "a.run"
    (run / "overview.png").unlink()
    finish_run(run)
    assert (run / "overview.png").is_file()
    assert not caplog.messages
    # Another slide lies where it was; the right one is still found.
    (old / "slides" / "b").mkdir(parents=True)
    write(slide, 2)
    (run / "overview.png").unlink()
    finish_run(run)
    assert (run / "overview.png").is_file()
    # Without it the report says so.
    away = (new / "slides" / "b" / "a.tif").rename(tmp_path / "elsewhere.tif")
    before = Report.read(run)
    notes: list[str] = []
    finish_run(run, say=notes.append)
    assert "a.tif was not found" in notes[0]
    assert "another content" in notes[0]
    assert "overview is left as it is" in notes[0]
    assert Report.read(run).result() == before.result()
    with pytest.raises(SlideMismatchError, match="not the slide of the run"):
        finish_run(run, slide=slide)
    (run / "overview.png").unlink()
    finish_run(run, slide=away, say=notes.append)
    assert len(notes) == 1
    assert (run / "overview.png").is_file()
