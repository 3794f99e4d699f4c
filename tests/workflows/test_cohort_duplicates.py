"""One row per slide: the files of a DICOM series are one, and rows of the same px are found before the run."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cohort_helpers import plan_of, run_cohort, study_of, threads
from dicom_files import pixels, write_instance, write_slide
from PIL import Image

from workflows.cohort import cohort_status, read_cohort, write_summary
from workflows.cohort.folder import BatchFolder
from workflows.cohort.study.check import Checked, check_rows
from workflows.cohort.workers.work import close_engine

STUDY = study_of(slides={"mask": "all"})
LABEL = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.cohort.run.connect", threads)
    monkeypatch.delenv("COHORT_TOLD", raising=False)
    close_engine()


def two_slides(folder: Path) -> Path:
    write_slide(folder, "a")
    write_slide(folder, "b", seed=1)
    return folder


def rows_of(source: Path | str) -> list[tuple[str, str]]:
    return [(row.id, Path(row.slide).name) for row in read_cohort(source).rows]


def test_a_folder_of_two_dicom_slides_is_two_rows(tmp_path: Path) -> None:
    folder = two_slides(tmp_path / "slides")
    expected = [("a_level0", "a_level0.dcm"), ("b_level0", "b_level0.dcm")]
    for source in (folder, f"{folder}/*", f"{folder}/*.dcm", f"{folder}/*level1.dcm"):
        cohort = read_cohort(source)
        assert rows_of(source) == expected
        assert cohort.findings == ()
    assert read_cohort(folder).notes == ("4 DICOM files are 2 slides: a series is one slide.",)
    assert rows_of(folder / "b_level1.dcm") == expected[1:]
    result = run_cohort(plan_of(folder, STUDY), tmp_path / "out")
    assert result.complete
    with write_summary(tmp_path / "out")[0].open() as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["a_level0", "b_level0"]


def test_folders_with_dicom_are_rows_of_their_names(tmp_path: Path) -> None:
    two_slides(tmp_path / "case 3" / "images")
    write_slide(tmp_path / "case1", "only")
    for number, file in enumerate(write_slide(tmp_path, "loose", seed=2)):
        file.rename(tmp_path / f"1.2.{number}")
    write_instance(tmp_path / "case1" / "label.dcm", pixels(32, 32), series="alone", flavour=LABEL)
    (tmp_path / "notes").mkdir()
    Image.fromarray(pixels(32, 32)).save(tmp_path / "photo.png")
    Image.fromarray(pixels(32, 32)).save(tmp_path / "plain.tif")
    assert rows_of(tmp_path) == [
        ("1.2.0", "1.2.0"),
        ("case 3_images_a_level0", "a_level0.dcm"),
        ("case 3_images_b_level0", "b_level0.dcm"),
        ("case1", "only_level0.dcm"),
        ("plain", "plain.tif"),
    ]
    assert rows_of(f"{tmp_path}/*/*.dcm") == [("case1", "only_level0.dcm")]
    assert "1 DICOM file left out, no whole slide: label" in " ".join(read_cohort(f"{tmp_path}/*/*.dcm").notes)


def table(folder: Path, *lines: str) -> Path:
    path = folder / "cohort.csv"
    path.write_text("slide,id,mpp,mask,group\n" + "".join(f"{line}\n" for line in lines))
    return path


def problems(source: Path, out: Path) -> dict[int, str | None]:
    plan = plan_of(source, STUDY)
    return {each.row.number: each.problem for each in check_rows(plan, BatchFolder(out))}


def copied(one: Path, other: Path) -> None:
    shutil.copy(one, other)


@pytest.mark.parametrize(
    ("make", "words"),
    [(copied, "a copy"), (os.symlink, "symbolic link"), (os.link, "same file under another name"), (None, "same file")],
)
def test_rows_of_the_same_px_are_run_once(
    make: Callable[[Path, Path], None] | None, words: str, tmp_path: Path
) -> None:
    image = np.repeat(np.repeat(pixels(64, 64), 4, 0), 4, 1)
    Image.fromarray(image).save(tmp_path / "one.png")
    Image.fromarray(image[::-1]).save(tmp_path / "other.png")
    if make is not None:
        make(tmp_path / "one.png", tmp_path / "two.png")
    second = "two.png" if make is not None else "one.png"
    cohort = table(tmp_path, "one.png,a,0.5,,x", "other.png,b,0.5,,x", f"{second},c,0.5,,x")
    found = problems(cohort, tmp_path / "out")
    assert (found[2], found[3]) == (None, None)
    assert "the same px as row 2 (a)" in str(found[4])
    assert words in str(found[4])
    assert "counted once" in str(found[4])
    result = run_cohort(plan_of(cohort, STUDY), tmp_path / "out")
    assert not result.complete
    assert sorted(result.outcomes) == ["a", "b"]
    assert [each.stage for each in cohort_status(tmp_path / "out")[1]] == ["complete", "complete", "refused"]
    with write_summary(tmp_path / "out")[0].open() as stream:
        last = list(csv.DictReader(stream))[-1]
    assert (last["stage"], last["complete"], last["tiles"]) == ("refused", "False", "")
    assert "counted once" in last["reason"]
    assert problems(cohort, tmp_path / "out")[4] == found[4], "the row that was run stays the one that counts"


def test_every_file_of_a_series_is_the_same_slide(tmp_path: Path) -> None:
    two_slides(tmp_path / "slides")
    names = ("a_level0", "a_level1", "b_level0", "b_level1")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "slides" / "a_level0.dcm", tmp_path / "alone")
    cohort = table(tmp_path, *(f"slides/{name}.dcm,{name},,," for name in names), "alone,copy,,,", "slides,folder,,,")
    found = problems(cohort, tmp_path / "out")
    assert [found[2], found[4]] == [None, None]
    assert "row 2 (a_level0): it is a file of the same slide" in str(found[3])
    assert "row 4 (b_level0)" in str(found[5])
    assert "row 2 (a_level0): it is a copy" in str(found[6])
    assert "holds 2 slides" in str(found[7])


def test_what_contradicts_is_not_run_and_regions_are(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(np.repeat(pixels(64, 64), 4, 0), 4, 1)).save(tmp_path / "one.png")
    shutil.copy(tmp_path / "one.png", tmp_path / "two.png")
    square = '{"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]}'
    for name in ("r1", "r2"):
        (tmp_path / f"{name}.geojson").write_text(square)
    out = tmp_path / "out"
    groups = problems(table(tmp_path, "one.png,a,0.5,,case", "two.png,b,0.5,,control"), out)
    assert all("rows 2, 3 are the same px and state group case and control" in str(each) for each in groups.values())
    scales = problems(table(tmp_path, "one.png,a,0.5,,", "two.png,b,0.25,,"), out)
    assert all("state mpp 0.25 and 0.5" in str(each) for each in scales.values())
    regions = problems(table(tmp_path, "one.png,a,0.5,r1.geojson,", "two.png,b,0.5,r2.geojson,"), out)
    assert set(regions.values()) == {None}
    mixed = problems(table(tmp_path, "one.png,a,0.5,r1.geojson,", "two.png,b,0.5,,"), out)
    assert [each is None for each in mixed.values()] == [True, False]


def test_images_of_one_zarr_are_different_slides(tmp_path: Path) -> None:
    import zarr

    root = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name in ("0", "1"):
        group = root.create_group(name)
        group.create_array("0", data=np.moveaxis(pixels(64, 64, int(name)), -1, 0), chunks=(3, 64, 64))
        group.attrs["multiscales"] = [
            {
                "version": "0.4",
                "axes": [{"name": "c", "type": "channel"}, *({"name": each, "type": "space"} for each in "yx")],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}],
            }
        ]
    study = study_of(slides={"mask": "all", "mpp": 0.5, "rendering": "rgb"})
    cohort = table(tmp_path, "x.zarr/0,a,,,", "x.zarr/1,b,,,", "x.zarr/1,c,,,")
    checked = check_rows(plan_of(cohort, study), BatchFolder(tmp_path / "out"))
    assert [each.problem is None for each in checked] == [True, True, False]
    assert "same px as row 3 (b): it is the same file" in str(checked[2].problem)


def test_fingerprints_are_made_only_of_slides_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, width in (("a", 64), ("b", 96), ("c", 64)):
        Image.fromarray(pixels(width, 64, seed=ord(name))).save(tmp_path / f"{name}.bmp")
    made: list[str] = []
    original = Checked.fingerprint
    monkeypatch.setattr(Checked, "fingerprint", lambda each: made.append(each.row.id) or original(each))
    found = problems(table(tmp_path, "a.bmp,a,0.5,,", "b.bmp,b,0.5,,", "c.bmp,c,0.5,,"), tmp_path / "out")
    assert set(found.values()) == {None}
    assert sorted(made) == ["a", "c"]
