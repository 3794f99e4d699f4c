"""What a file leaves to its user is said at once, each with an example that is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from slide_files import marked_stack, tissue

from wsi import Description, Plane, PlaneError, Rendering, SlideError, describe, open_slide
from wsi.readers.choices import choices_of, suggested_plane, suggested_rendering
from wsi.readers.describe import describe_images
from wsi.readers.description import Layout


def _layout(dtype: str, channels: int, times: int = 1, depths: int = 1, rgb: bool = False) -> Layout:
    return Layout(np.dtype(dtype), channels, times, depths, rgb)


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        (_layout("u1", 3, rgb=True), []),
        (_layout("u1", 1), []),
        (_layout("u2", 1), []),
        (_layout("u1", 3), ["--rendering rgb"]),
        (_layout("u2", 2), ["--rendering 0:red:auto,1:green:auto"]),
        (_layout("u1", 5), ["--rendering 0:red,1:green,2:blue"]),
        (_layout("u1", 1, depths=4), ["--plane z=0,t=0"]),
        (_layout("u1", 3, times=2, rgb=True), ["--plane z=0,t=0"]),
        (_layout("f4", 4, times=2, depths=3), ["--plane z=0,t=0", "--rendering 0:red:auto,1:green:auto,2:blue:auto"]),
    ],
)
def test_what_is_missing(layout: Layout, missing: list[str]) -> None:
    assert [choice.flag for choice in choices_of(layout, None, None).missing] == missing


def test_all_of_it_is_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, marked_stack(2, 3, 2), photometric="minisblack", metadata={"axes": "TZCYX"})
    with pytest.raises(PlaneError) as raised:
        open_slide(path)
    words = str(raised.value)
    assert "--plane z=0,t=0" in words
    assert "--rendering 0:red,1:green" in words
    assert [choice.name for choice in raised.value.missing] == ["plane", "rendering"]
    python = re.search(r"open_slide\(path, .*\)(?=\.)", words)
    assert python is not None
    names = {"open_slide": open_slide, "path": path, "Plane": Plane, "Rendering": Rendering}
    eval(python[0], names).close()  # the example runs as it stands
    with pytest.raises(PlaneError, match=r"no plane z=0,t=7.*no channel 4.*no channel 9"):
        open_slide(path, plane=Plane(t=7), rendering=Rendering.parse("4,0,9"))
    with pytest.raises(PlaneError, match=r"no channel 4.*--plane"):
        open_slide(path, rendering=Rendering.parse("4"))


@given(
    dtype=st.sampled_from(["u1", "u2", "i2", "f4", "?"]),
    channels=st.integers(1, 40),
    times=st.integers(1, 5),
    depths=st.integers(1, 5),
)
def test_what_is_suggested_is_accepted(dtype: str, channels: int, times: int, depths: int) -> None:
    layout = _layout(dtype, channels, times, depths)
    rendering = Rendering.parse(suggested_rendering(layout))
    choices = choices_of(layout, suggested_plane(layout), rendering)
    assert not choices.missing
    assert not choices.wrong
    assert len(choices.rendering.channels) == min(channels, 3)


def test_describing_needs_no_choice(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(marked_stack(2, 3, 2), photometric="minisblack", metadata={"axes": "TZCYX", "Name": "stack"})
        tif.write(tissue(50, 40), photometric="rgb", metadata={"axes": "YXS", "Name": "tissue"})
    with pytest.raises(PlaneError, match="--series 0"):
        describe(path)
    stack = describe(path, series=0)
    assert (stack.layout.times, stack.layout.depths, stack.layout.channels) == (2, 3, 2)
    both = describe_images(path)
    assert [each.layout.is_rgb for each in both if isinstance(each, Description)] == [False, True]
    assert [
        f"{i}: {name}" in image for i, (name, image) in enumerate(zip(("stack", "tissue"), stack.images, strict=True))
    ] == [True, True]


def test_an_image_that_cannot_be_opened_is_among_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(tissue(50, 40), photometric="rgb", metadata={"axes": "YXS"})
        ink = np.repeat(tissue(50, 42)[..., :1], 4, axis=-1)
        tif.write(ink, photometric="separated", metadata={"axes": "YXS"})
    found = describe_images(path)
    assert isinstance(found[0], Description)
    assert isinstance(found[1], SlideError)
    assert "save it as RGB" in str(found[1])
    (tmp_path / "b.tif").write_bytes(path.read_bytes()[:100])
    with pytest.raises(SlideError, match=r"b\.tif"):
        describe_images(tmp_path / "b.tif")
