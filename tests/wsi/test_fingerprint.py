"""Fingerprints: those of one file stay as they were, those of several see every file and no name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi import open_slide
from wsi.files.fingerprint import combine, fingerprint_files, fingerprint_path
from wsi.readers.vendor.companions import companion_files


def data(size: int, seed: int = 0) -> bytes:
    """The same bytes everywhere: a linear congruential sequence."""
    values = (np.arange(size, dtype=np.uint64) + np.uint64(seed)) * np.uint64(6364136223846793005)
    return ((values + np.uint64(1442695040888963407)) >> np.uint64(56)).astype(np.uint8).tobytes()


KNOWN = [
    (0, "sha256:5feceb66ffc86f38d952786c6d696c79"),
    (1_000, "sha256:4eef073facb88966396b925ff5a939e2"),
    (2_097_152, "sha256:1f086f77840ba10f2f3c7de7881f8d7c"),
    (2_097_153, "sha256:5f2f3ca599d73a23c0ff5fe5e4c5f8a0"),
    (3_000_000, "sha256:36e830784e90feebff5b8661b0384833"),
]
FOLDER = "sha256:9057a83f126cfeeac7c77cdf9bc912b8"


@pytest.mark.parametrize(("size", "known"), KNOWN)
def test_one_file_keeps_its_fingerprint(size: int, known: str, tmp_path: Path) -> None:
    path = tmp_path / "x.svs"
    path.write_bytes(data(size))
    assert fingerprint_path(path) == fingerprint_files((path,)) == known
    assert fingerprint_files((path,), "id") == combine(known, "id")


def test_a_folder_keeps_its_fingerprint(tmp_path: Path) -> None:
    for name in ("a/0", "a/1", "zarr.json"):
        (tmp_path / "x.zarr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.zarr" / name).write_bytes(data(100, len(name)))
    assert fingerprint_files((tmp_path / "x.zarr",)) == fingerprint_path(tmp_path / "x.zarr") == FOLDER


@pytest.mark.skipif(sys.platform != "linux", reason="names as bytes")
def test_a_folder_with_names_that_are_no_utf8(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / os.fsdecode(b"\xff")).write_bytes(b"1")
    assert fingerprint_path(tmp_path / "x.zarr").startswith("sha256:")


@pytest.mark.parametrize(("number", "size"), [(2, 1000), (3, 3_000_000), (40, 4000), (1100, 3)])
def test_every_file_of_several_counts_and_no_name(number: int, size: int, tmp_path: Path) -> None:
    files = [tmp_path / f"{i:04}.tif" for i in range(number)]
    for i, file in enumerate(files):
        file.write_bytes(data(size, i))
    before = fingerprint_files(files)
    for i in {0, 1, number // 2, number - 1}:
        for place in (0, -1):
            content = bytearray(data(size, i))
            content[place] ^= 1
            files[i].write_bytes(content)
            assert fingerprint_files(files) != before
            files[i].write_bytes(data(size, i))
    renamed = [file.rename(file.with_name(f"z{number - i}.tif")) for i, file in enumerate(files)]
    assert fingerprint_files(renamed) == before
    assert fingerprint_files(renamed[1:]) != before
    assert fingerprint_files(renamed[::-1]) != before


def test_little_is_read_of_many_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{i}.tif" for i in range(200)]
    for file in files:
        with file.open("wb") as stream:
            stream.truncate(5_000_000)
    read = 0
    original = Path.open

    def opened(path: Path, *args: object, **options: object) -> object:
        stream = original(path, *args, **options)  # type: ignore[call-overload]
        inner = stream.read

        def counted(size: int = -1) -> bytes:
            nonlocal read
            found: bytes = inner(size)
            read += len(found)
            return found

        class Stream:
            def __enter__(self) -> object:
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            read = staticmethod(counted)
            seek = staticmethod(stream.seek)

        return Stream()

    monkeypatch.setattr(Path, "open", opened)
    fingerprint_files(files)
    assert 200 * 64 * 1024 <= read <= 96 << 20


def test_multi_file_ome_tiff(tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0" Name="set">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="48" SizeZ="2" SizeC="1" SizeT="1" '
        'PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0" SamplesPerPixel="1"/>'
        '<TiffData FirstZ="0" IFD="0"><UUID FileName="z0.ome.tif">'
        "urn:uuid:00000000-0000-0000-0000-000000000000</UUID></TiffData>"
        '<TiffData FirstZ="1" IFD="0"><UUID FileName="z1.ome.tif">'
        "urn:uuid:00000000-0000-0000-0000-000000000001</UUID></TiffData>"
        "</Pixels></Image></OME>"
    )

    def write(folder: Path, number: int, value: int) -> None:
        folder.mkdir(exist_ok=True)
        own = xml.replace("<OME ", f'<OME UUID="urn:uuid:00000000-0000-0000-0000-00000000000{number}" ', 1)
        tifffile.imwrite(
            folder / f"z{number}.ome.tif",
            np.full((48, 64), value, np.uint8),
            description=own,
            metadata=None,
            photometric="minisblack",
        )

    def fingerprint(path: Path) -> str:
        from wsi import Plane

        with open_slide(path, plane=Plane(z=0)) as slide:
            return slide.fingerprint

    folder = tmp_path / "set"
    write(folder, 0, 10)
    write(folder, 1, 20)
    before = fingerprint(folder / "z0.ome.tif")
    assert fingerprint(folder / "z1.ome.tif") == before
    assert fingerprint(shutil.copytree(folder, tmp_path / "copy") / "z1.ome.tif") == before
    write(folder, 1, 21)
    assert fingerprint(folder / "z0.ome.tif") != before


SLIDEDAT = (
    "\ufeff[GENERAL]\nSLIDE_ID = x\n"
    "[HIERARCHICAL]\nINDEXFILE = Index.dat\n[DATAFILE]\nFILE_COUNT = 2\nFILE_0 = Data0000.dat\nFILE_1 = Data0001.dat\n"
)
VMS = (
    "[Virtual Microscope Specimen]\nNoLayers=1\n"
    "ImageFile=x.jpg\nImageFile(1,0)=x(1,0).jpg\nMapFile=x_map2.jpg\nOptimisationFile=x.opt\nMacroImage=gone.jpg\n"
)


def mirax(folder: Path) -> tuple[Path, list[str]]:
    (folder / "x").mkdir()
    (folder / "x.mrxs").write_bytes(b"")
    (folder / "x" / "Slidedat.ini").write_text(SLIDEDAT, encoding="utf-8")
    for name in ("Index.dat", "Data0000.dat", "Data0001.dat", "Other.dat"):
        (folder / "x" / name).write_bytes(name.encode())
    return folder / "x.mrxs", ["x.mrxs", "Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat"]


def vms(folder: Path) -> tuple[Path, list[str]]:
    (folder / "x.vms").write_text(VMS)
    for name in ("x.jpg", "x(1,0).jpg", "x_map2.jpg", "x.opt"):
        (folder / name).write_bytes(name.encode())
    return folder / "x.vms", ["x.vms", "x.jpg", "x(1,0).jpg", "x_map2.jpg", "x.opt"]


@pytest.mark.parametrize(("make", "vendor"), [(mirax, "mirax"), (vms, "hamamatsu-vms")])
def test_files_that_a_slide_names(make: object, vendor: str, tmp_path: Path) -> None:
    path, names = make(tmp_path)  # type: ignore[operator]
    files = companion_files(path, vendor)
    assert [file.name for file in files] == names
    before = fingerprint_files(files)
    files[-1].write_bytes(b"changed")
    assert fingerprint_files(files) != before
    assert companion_files(path, "aperio") == (path,)
