"""Cohort tables: what is read, and what is said about every row that cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.cohort.study.table import folded, name_of, read_cohort, why_unsafe
from workflows.errors import CohortError


def table(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_metadata_and_relative_paths(tmp_path: Path, separator: str) -> None:
    lines = [
        ["Slide", "ID", "mpp", "mask", "group", "Patient age", "stain"],
        ["a.svs", "one", "0.25", "", "case", "61", "H&E"],
        ["sub/b.ome.tif", "", "", "regions.geojson", "control", "", '"H&E, old"'],
        [],
        ["/elsewhere/c.ndpi", "three", "0.5", "all", "", "7", ""],
    ]
    text = "\ufeff" + "\n".join(separator.join(line) for line in lines) + "\n"
    cohort = read_cohort(table(tmp_path, text))
    assert cohort.findings == ()
    one, two, three = cohort.rows
    assert (one.number, one.id, one.slide, one.mpp, one.mask) == (2, "one", str(tmp_path / "a.svs"), 0.25, None)
    assert one.metadata == {"Patient age": "61", "stain": "H&E"}
    assert (two.number, two.id, two.group) == (3, "b", "control")
    assert two.mask == str(tmp_path / "regions.geojson")
    assert two.metadata["stain"] == "H&E, old"
    assert (three.number, three.slide, three.mask) == (5, "/elsewhere/c.ndpi", "all")


def test_the_frame_of_a_mask_is_a_column(tmp_path: Path) -> None:
    lines = ["slide,mask,frame", "a.scn,a.geojson,qupath", "b.scn,b.geojson,Level0", "c.scn,c.geojson,"]
    cohort = read_cohort(table(tmp_path, "\n".join([*lines, "d.scn,d.geojson,canvas\n"])))
    assert [row.frame for row in cohort.rows] == ["qupath", "level0", None, None]
    assert [(found.row, found.problem) for found in cohort.findings] == [
        (5, "frame 'canvas' is none of level0, qupath")
    ]


def test_everything_wrong_is_said_at_once_with_its_row(tmp_path: Path) -> None:
    text = (
        "slide,id,mpp\n"
        "a.svs,Case,\n"  # 2: same as 4
        "b.svs,fine,\n"
        "c.svs,case,\n"  # 4
        ",empty,\n"  # 5
        "d.svs,../up,\n"  # 6
        "e.svs,scale,fast\n"  # 7
        "f.svs,cells,0.5,too,many\n"  # 8
        "g.svs,summary.CSV,\n"  # 9
        "h.svs,Stra\u00dfe,\n"  # 10: folds to the same as 11
        "i.svs,STRASSE,\n"
    )
    findings = {found.row: found.problem for found in read_cohort(table(tmp_path, text)).findings}
    assert sorted(findings) == [2, 4, 5, 6, 7, 8, 9, 10, 11]
    for row, words in {
        2: "rows 2, 4",
        4: "rows 2, 4",
        5: "'slide' is empty",
        6: "holds '/'",
        7: "'fast' is no number",
        8: "5 cells",
        9: "reserved",
        10: "rows 10, 11",
        11: "rows 10, 11",
    }.items():
        assert words in findings[row]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("S-12_3 (b)", None),
        ("M\u00fcller", None),
        ("", "needed"),
        ("..", "needed"),
        ("a/b", "'/'"),
        ("a\\b", "holds"),
        ("a:b", "':'"),
        ("a\nb", "holds"),
        (".hidden", "begins"),
        ("-o", "begins"),
        ("~root", "begins"),
        ("end.", "ends"),
        ("NUL", "reserved"),
        ("com1.svs", "reserved"),
        ("console", None),
        ("Cohort.json", "reserved"),
        ("\u00e9" * 76, "longer"),
        ("x" * 150, None),
    ],
)
def test_ids_are_safe_folder_names(name: str, words: str | None) -> None:
    reason = why_unsafe(name)
    assert reason is None if words is None else words in (reason or "")


def test_folders_globs_and_single_slides(tmp_path: Path) -> None:
    for name in ("b.svs", "A.NDPI", "notes.txt", "photo.png", ".hidden.svs", "c.ome.tif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.ome.zarr").mkdir()
    assert [row.id for row in read_cohort(tmp_path).rows] == ["A", "b", "c", "d"]
    assert [row.id for row in read_cohort(f"{tmp_path}/*.png").rows] == ["photo"]
    assert [row.number for row in read_cohort(tmp_path / "b.svs").rows] == [1]
    (tmp_path / "b.tif").write_bytes(b"")
    assert {found.id for found in read_cohort(tmp_path).findings} == {"b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,group\na,b\n", "no column 'slide'"),
        ("slide,mpp,MPP\na,1,2\n", "twice: 'mpp'"),
        ("slide,id\n", "no rows"),
        ("", "no column 'slide'"),
    ],
)
def test_headings_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CohortError, match=words):
        read_cohort(table(tmp_path, text))


def test_nothing_there(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path / "no.csv", "does not exist"),
        (f"{tmp_path}/*.svs", "finds nothing"),
        (tmp_path, "no slide"),
    ):
        with pytest.raises(CohortError, match=words):
            read_cohort(source)
    (tmp_path / "latin.csv").write_bytes("slide\nM\u00fcller.svs\n".encode("latin-1"))
    with pytest.raises(CohortError, match="UTF-8"):
        read_cohort(tmp_path / "latin.csv")


@pytest.mark.parametrize(
    ("lines", "ids", "wrong"),
    [
        (['a.svs,"open', "b.svs,x", "c.tiff,y"], ["a", "b", "c"], {2: "quote that is not closed"}),
        (['a.svs,"open', 'b.svs,"H&E, old"', "c.svs,y"], ["a", "b", "c"], {2: "quote that is not closed"}),
        (['a.svs,"two\nlines"', "b.svs,x"], ["a", "b"], {}),
        (["a.svs,line\u2028sep", "b.svs,x\x0by", "c.svs,\x85"], ["a", "b", "c"], {}),
        (['a.svs,"said ""so"""', 'b.svs,5" lens'], ["a", "b"], {}),
    ],
)
def test_quotes_and_line_ends_spoil_their_own_row_only(
    lines: list[str], ids: list[str], wrong: dict[int, str], tmp_path: Path
) -> None:
    cohort = read_cohort(table(tmp_path, "slide,notes\n" + "\n".join(lines) + "\n"))
    assert [row.id for row in cohort.rows] == ids
    assert {found.row for found in cohort.findings} == set(wrong)
    assert all(words in found.problem for found, words in zip(cohort.findings, wrong.values(), strict=True))


def test_a_row_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_bytes(b"slide,notes\nM\xfcller.svs,x\nb.svs,y\n")
    cohort = read_cohort(path)
    assert [row.id for row in cohort.rows] == ["M\\xfcller", "b"]
    assert [(found.row, "not UTF-8" in found.problem) for found in cohort.findings] == [(2, True)]


@pytest.mark.parametrize("name", ["[x] 1", "a[0-9]", "a?b", "*", "100%", "a#b", "~a", "C:", "-o", "é\u0301", "😀"])
def test_folders_with_any_name_are_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for slide in ("one.svs", "two.svs"):
        (folder / slide).write_bytes(b"")
    assert [row.id for row in read_cohort(folder).rows] == ["one", "two"]
    assert [row.id for row in read_cohort(f"{folder}/t*.svs").rows] == ["two"]
    rows = read_cohort(table(tmp_path, f"slide\n{name}/one.svs\n")).rows
    assert [Path(row.slide) for row in rows] == [folder / "one.svs"]


@pytest.mark.parametrize("name", ["[x].svs", "a[1].svs", "~nobody.svs", "~.svs", "100%.svs", "a#1.svs", "-o.svs"])
def test_files_with_any_name_are_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    for source in (tmp_path / name, table(tmp_path, f"slide,id\n{name},x\n"), f"{tmp_path}/*.svs"):
        assert [Path(row.slide) for row in read_cohort(source).rows] == [tmp_path / name]


def test_names() -> None:
    assert [name_of(Path(p)) for p in ("x/a.ome.tiff", "a.svs", "a.b.SVS", "a.png")] == ["a", "a", "a.b", "a"]
    assert folded("E\u0301") == folded("\u00e9")
