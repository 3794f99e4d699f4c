"""Patches against the Hugging Face image processor."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qwenvl.errors import PictureError
from qwenvl.families import FAMILIES
from qwenvl.images.preprocess import preprocess
from qwenvl.images.processor import ProcessorSettings

FAMILIES_WITH_PATCHES = ["Qwen2-VL", "Qwen3-VL"]  # CLIP colours at 14 px, halves at 16 px


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5), np.cos(y / 6), np.sin((x * 3 + y) / 11)]
    return (127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


def their_processor(settings: ProcessorSettings) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=settings.patch_size,
        merge_size=settings.merge_size,
        temporal_patch_size=settings.temporal_patch_size,
        image_mean=list(settings.image_mean),
        image_std=list(settings.image_std),
        size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
    )


@pytest.mark.parametrize("name", FAMILIES_WITH_PATCHES)
def test_every_grey_value_is_bit_identical(name: str) -> None:
    settings = ProcessorSettings.of_family(FAMILIES[name])
    side = settings.factor * 10
    values = np.resize(np.arange(256, dtype=np.uint8), (side, side))
    tile = np.stack([values, values.T, values[::-1]], axis=2)
    expected = their_processor(settings)(images=[tile], return_tensors="pt")["pixel_values"]
    assert torch.equal(preprocess([tile], settings).pixel_values, expected)


@pytest.mark.parametrize("name", FAMILIES_WITH_PATCHES)
def test_equal_to_hugging_face_without_resize(name: str) -> None:
    settings = ProcessorSettings.of_family(FAMILIES[name])
    tiles = [picture(448, 448, 1), picture(448, 448, 2), picture(672, 448, 3), picture(448, 448, 4)]
    expected = their_processor(settings)(images=tiles, return_tensors="pt")
    patches = preprocess(tiles, settings)
    assert torch.equal(patches.pixel_values, expected["pixel_values"])
    assert torch.equal(patches.image_grid_thw, expected["image_grid_thw"])
    assert [frame.resized for frame in patches.frames] == [False] * 4


@pytest.mark.parametrize("name", FAMILIES_WITH_PATCHES)
@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (300, 500), (100, 700), (61, 45)])
def test_close_to_hugging_face_with_resize(name: str, height: int, width: int) -> None:
    settings = ProcessorSettings.of_family(FAMILIES[name])
    tile = smooth(height, width)
    expected = their_processor(settings)(images=[tile], return_tensors="pt")
    patches = preprocess([tile], settings)
    assert torch.equal(patches.image_grid_thw, expected["image_grid_thw"])
    assert patches.frames[0].resized
    steps = (patches.pixel_values - expected["pixel_values"]).abs() * min(settings.image_std) * 255
    # The processor's own two backends differ by up to 2 of 255 steps. (Across hard edges by more, where Pillow 13
    # chooses to resize columns first.)
    assert steps.max() <= 2.01
    assert steps.mean() < 0.2


def test_limits_of_the_checkpoint_are_obeyed() -> None:
    settings = ProcessorSettings(16, 2, 2, 65_536, 512 * 512, (0.5,) * 3, (0.5,) * 3)
    frame = preprocess([picture(1024, 1024)], settings).frames[0]
    assert (frame.processed_width, frame.processed_height) == (512, 512)
    assert settings.image_tokens(frame) == 256


def test_memory_is_reused_only_where_it_fits() -> None:
    settings = ProcessorSettings.of_family(FAMILIES["Qwen3-VL"])
    tile = picture(256, 256)
    first = preprocess([tile, tile], settings).pixel_values
    wanted = first[:256].clone()
    again = preprocess([tile], settings, out=first).pixel_values
    assert again.data_ptr() == first.data_ptr()
    assert torch.equal(again, wanted)
    larger = preprocess([tile] * 3, settings, out=first).pixel_values
    assert larger.data_ptr() != first.data_ptr()
    half = preprocess([tile], settings, out=first, dtype=torch.bfloat16).pixel_values
    assert torch.equal(half, wanted.bfloat16())


def test_views_and_read_only_pictures() -> None:
    settings = ProcessorSettings.of_family(FAMILIES["Qwen3-VL"])
    large = picture(600, 600)
    view = large[40:296, 30:286]
    view.flags.writeable = False
    expected = preprocess([view.copy()], settings).pixel_values
    assert torch.equal(preprocess([view], settings).pixel_values, expected)


def test_nothing_to_do() -> None:
    patches = preprocess([], ProcessorSettings.of_family(FAMILIES["Qwen3-VL"]))
    assert patches.pixel_values.shape == (0, 1536)
    assert patches.image_grid_thw.shape == (0, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), "dtype uint8, not float32"),
        (np.zeros((64, 64), np.uint8), "shape"),
        (np.zeros((64, 64, 4), np.uint8), "shape"),
        (np.zeros((0, 64, 3), np.uint8), "no pixels"),
        (np.zeros((1, 201, 3), np.uint8), "200 times"),
        ([[1, 2, 3]], "numpy array, not list"),
    ],
)
def test_bad_pictures(bad: Any, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        preprocess([bad], ProcessorSettings.of_family(FAMILIES["Qwen3-VL"]))
