"""`qwenvl info` describes whatever opens, and the command it prints runs as it stands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from icc_profiles import rgb_profile
from PIL import Image
from typer.testing import CliRunner, Result

from qwenvl.checkpoints.recommended import recommended_of
from qwenvl.cli import load_commands
from qwenvl.engines.fake import FakeEngine


def run(*args: object) -> Result:
    return CliRunner().invoke(load_commands(), [str(arg) for arg in args])


def cells(*shape: int, dtype: str = "u2") -> np.ndarray:
    """Bright squares on a dark ground, the last two axes y and x."""
    values = np.random.default_rng(0).integers(0, 9, shape)
    values[..., shape[-2] // 4 : shape[-2] // 2, shape[-1] // 4 : shape[-1] // 2] += 100
    return values.astype(dtype)


def rgb(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(60, 200, (height, width, 3), np.uint8)


def ome(path: Path, array: np.ndarray, axes: str, **metadata: Any) -> Path:
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    tifffile.imwrite(path, array, photometric=photometric, metadata={"axes": axes, **metadata}, ome=True)
    return path


def full_stack(folder: Path) -> Path:
    scale = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 1.5, "TimeIncrement": 30}
    return ome(
        folder / "a b's.ome.tif",
        cells(2, 5, 3, 300, 320),
        "TZCYX",
        **scale,
        TimeIncrementUnit="s",
        Channel={"Name": ["DAPI", "Ki67", "CD3"]},
    )


def two_images(folder: Path) -> Path:
    path = folder / "two.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(cells(4, 280, 280), photometric="minisblack", metadata={"axes": "ZYX", "Name": "left"})
        tif.write(rgb(300, 300), photometric="rgb", metadata={"axes": "YXS", "Name": "right"})
    return path


def picture(folder: Path) -> Path:
    Image.fromarray(rgb(300, 400)).save(folder / "[a].png", icc_profile=rgb_profile(1.8, name="scanner 7"))
    return folder / "[a].png"


def tiny(folder: Path) -> Path:
    Image.fromarray(rgb(20, 50)).save(folder / "tiny.png")
    return folder / "tiny.png"


def small_with_scale(folder: Path) -> Path:
    return ome(folder / "small.ome.tif", rgb(24, 30), "YXS", PhysicalSizeX=0.5, PhysicalSizeY=0.5)


def coarse(folder: Path) -> Path:
    return ome(folder / "coarse.ome.tif", rgb(400, 300), "YXS", PhysicalSizeX=4.0, PhysicalSizeY=4.0)


def film(folder: Path) -> Path:
    frames = [Image.fromarray(frame) for frame in cells(3, 90, 90, dtype="u1")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    return folder / "a.gif"


def glass(folder: Path) -> Path:
    Image.fromarray(np.full((300, 300, 3), 244, np.uint8)).save(folder / "glass.png")
    return folder / "glass.png"


def many_channels(folder: Path) -> Path:
    return ome(folder / "m.ome.tif", cells(20, 260, 260, dtype="f4"), "CYX", PhysicalSizeX=0.3, PhysicalSizeY=0.3)


FILES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], list[str]]] = {
    # what is written, what info says of it, words of the command
    "stack of everything": (
        full_stack,
        {
            "axes": {"t": 2, "z": 5, "c": 3, "y": 300, "x": 320},
            "dtype": "uint16",
            "bits": 16,
            "rgb": False,
            "seconds": [0.0, 30.0],
            "depth_um": 1.5,
            "mpp": 0.25,
            "mpp_source": "file",
            "mpp_from": "PhysicalSize of OME Image 'Image0'",
            "channels": [{"index": 0, "name": "DAPI"}, {"index": 1, "name": "Ki67"}, {"index": 2, "name": "CD3"}],
        },
        ["--plane", "z=2,t=0", "--rendering", "0:red:auto,1:green:auto,2:blue:auto"],
    ),
    "two images": (two_images, {"series": 1, "rgb": True, "width": 300, "mpp": None}, ["--series", "1", "--native"]),
    "picture": (picture, {"icc_profile": "scanner 7 (RGB)", "mpp": None, "depths": 1}, ["--native"]),
    "too small": (tiny, {"width": 50, "height": 20}, ["--slide-mpp", "1", "--mpp", "0.625", "--tile-size", "32"]),
    "small, with a scale": (small_with_scale, {"mpp": 0.5}, ["--tile-size", "32", "--overlap", "16"]),
    "coarser than the model": (coarse, {"mpp": 4.0}, ["--native"]),
    "film without times": (film, {"depths": 3, "unnamed_axis": "z", "seconds": None}, ["--plane", "z=1"]),
    "glass": (glass, {"rgb": True}, ["--mask", "all"]),
    "twenty channels": (many_channels, {"dtype": "float32", "bits": 32}, ["0:red:auto,1:green:auto,2:blue:auto"]),
}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands ask an engine that takes no time, with the bundled model's recommendations."""
    recommended = recommended_of("embedded")
    monkeypatch.setattr("workflows.run.options.load_engine", lambda options: (FakeEngine(boxes=2), recommended))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", FILES)
def test_facts_and_a_command_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, facts, words = FILES[name]
    path = write(tmp_path)
    told = run("info", path, "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.output)
    assert {key: found[key] for key in facts} == facts
    shown = run("info", path)
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.output.splitlines() if line.startswith("to run"))
    command = line.removeprefix("to run").strip()
    assert command == found["command"]
    asked = shlex.split(command)
    for word in words:
        assert word in asked
    monkeypatch.chdir(tmp_path)
    done = run(*asked[1:], "-o", "out")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tiles"]["total"] >= 1
    assert report["complete"]


def test_it_runs_with_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path)
    asked = shlex.split(json.loads(run("info", path, "--json").output)["command"])
    monkeypatch.chdir(tmp_path)
    done = run(*asked[1:], "--limit", "1")
    assert done.exit_code in (0, 3), done.output
    assert Path("a.run/report.json").exists()


def test_what_a_stack_is_in_words(tmp_path: Path) -> None:
    words = run("info", full_stack(tmp_path)).output
    for each in (
        "t 2, z 5, c 3, y 300, x 320",
        "t=0 to 1, taken at 0, 30 s",
        "z=0 to 4, 1.5 um apart",
        "0: DAPI",
        "2: CD3",
        "3 channels, uint16, 16 bits",
        "0.2500 um/px (PhysicalSize of OME Image",
        "--plane z=0,t=0",
    ):
        assert each in words
    words = run("info", two_images(tmp_path)).output
    for each in ("0: left", "1: right", "4 depths", "image 1; for another one", "--series 1"):
        assert each in words
    words = run("info", two_images(tmp_path), "--series", "0").output
    assert "z=0 to 3, the file does not say how far apart" in words
    assert "--series 0 --plane z=2 --native" in words


def test_choices_are_kept_and_wrong_ones_refused(tmp_path: Path) -> None:
    path = full_stack(tmp_path)
    flags = ["--plane", "z=4,t=1", "--rendering", "1:gray:0-100", "--slide-mpp", "0.5"]
    found = json.loads(run("info", path, *flags, "--json").output)
    assert found["missing"] == []
    assert (found["mpp"], found["mpp_source"]) == (0.5, "user")
    assert "--plane z=4,t=1 --rendering 1:gray:0-100 --slide-mpp 0.5" in found["command"]
    for flags, words in (
        (["--plane", "z=9"], "z from 0 to 4"),
        (["--rendering", "7::auto"], "no channel 7"),
        (["--series", "3"], "not 3"),
        (["--colour", "srgb", "--rendering", "0::auto"], "no ICC profile"),
    ):
        refused = run("info", path, *flags)
        assert refused.exit_code == 1
        assert words in " ".join(refused.output.split())
    Image.fromarray(rgb(30, 30)).save(tmp_path / "one.png")
    assert "there is no 1" in run("info", tmp_path / "one.png", "--series", "1").output


def test_a_thumbnail_needs_no_choice(tmp_path: Path) -> None:
    result = run("info", full_stack(tmp_path), "--thumbnail", tmp_path / "a.png", "--properties", "--json")
    assert result.exit_code == 0, result.output
    assert "ome.PhysicalSizeX" in json.loads(result.output)["properties"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (320, 300)


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@example(1, 1, 0.05, 1, 1)
@example(31, 700, None, 2, 1)
@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    mpp=st.sampled_from([None, 0.05, 0.25, 0.4, 1.0, 3.0]),
    channels=st.integers(1, 5),
    depths=st.integers(1, 3),
)
def test_any_size_and_scale_gets_a_command_that_is_accepted(width, height, mpp, channels, depths) -> None:
    from tempfile import TemporaryDirectory

    from workflows.inputs.file_facts import file_facts

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        engine = FakeEngine()
        patch.setattr("workflows.run.options.load_engine", lambda options: (engine, recommended_of("embedded")))
        scale = {} if mpp is None else {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
        path = ome(Path(folder) / "a.ome.tif", cells(depths, channels, height, width), "ZCYX", **scale)
        command = file_facts(path, None, {})["command"]
        done = run(*shlex.split(command)[1:], "--dry-run")
        assert done.exit_code == 0, (command, done.output)
