"""Preprocessing: uint8 tiles to the patches of the vision tower, on the model's device.

Equal to the Hugging Face image processor (transformers `Qwen2VLImageProcessor`): bit for bit in float32 where no
resize happens, within the difference of its own two backends (2/255 of the value range) where one does.
Pixels stay uint8 until they are patches; there is no PIL and no float picture on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwenvl.images.geometry import PictureFrame
from qwenvl.images.images import check_picture
from qwenvl.images.processor import ProcessorSettings

_BLOCK_BYTES = 2**21  # float32 bytes normalised at a time on a CPU: they stay in its second-level cache


@dataclass(frozen=True, slots=True)
class Patches:
    """What the vision tower takes.

    Attributes
    ----------
    pixel_values : Tensor (patches, 3 * T * P * P)
        Patches of all pictures in order; those of one visual token stand together, row by row.
    image_grid_thw : int64 Tensor (pictures, 3)
        Frames, patch rows and patch columns of each picture, on the CPU.
    frames : tuple of PictureFrame
    """

    pixel_values: Tensor
    image_grid_thw: Tensor
    frames: tuple[PictureFrame, ...]


def preprocess(
    pictures: Sequence[NDArray[np.uint8]],
    settings: ProcessorSettings,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Patches:
    """Turn pictures into patches.

    Parameters
    ----------
    pictures : sequence of uint8 arrays (height, width, 3)
        RGB. Neighbours of equal size are processed as one stack.
    settings : ProcessorSettings
    device : torch.device or str
        Where the patches are wanted; pixels travel there as uint8.
    dtype : torch.dtype
        Of `pixel_values`; values are computed in float32 and rounded once.
    out : Tensor, optional
        Memory to write to where it is large enough and fits device and dtype, flat or with any shape; fresh
        memory of this size costs more than the arithmetic. The result is then a view of it, valid until the next call.

    Returns
    -------
    Patches

    Raises
    ------
    PictureError
        A picture has the wrong dtype or shape, or is too long for its width.
    """
    device = torch.device(device)
    for picture in pictures:
        check_picture(picture)
    frames = tuple(settings.frame(picture.shape[1], picture.shape[0]) for picture in pictures)
    grids = [(1, f.processed_height // settings.patch_size, f.processed_width // settings.patch_size) for f in frames]
    count = sum(rows * columns for _, rows, columns in grids)
    pixel_values = _memory(count, settings.patch_dim, device, dtype, out)
    start = 0
    for frame, members in groupby(range(len(pictures)), key=frames.__getitem__):
        chosen = [pictures[index] for index in members]
        stop = start + len(chosen) * frame.processed_width * frame.processed_height // settings.patch_size**2
        _process(chosen, frame, settings, pixel_values[start:stop])
        start = stop
    grid = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3)
    return Patches(pixel_values, grid, frames)


def _memory(count: int, width: int, device: torch.device, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    if out is not None and out.device == device and out.dtype == dtype and out.numel() >= count * width:
        return out.view(-1)[: count * width].view(count, width)
    return torch.empty(count, width, dtype=dtype, device=device)


def _process(pictures: list[NDArray[np.uint8]], frame: PictureFrame, settings: ProcessorSettings, out: Tensor) -> None:
    """Write the patches of pictures of one size into `out`."""
    if out.device.type != "cpu":
        stack = torch.from_numpy(np.stack(pictures)).to(out.device)
        _patchify(resize(stack, frame) if frame.resized else stack, settings, out)
        return
    written = out if out.dtype == torch.float32 else torch.empty(out.shape)
    # One by one: on a CPU a stack would be one more copy, and no faster.
    for picture, part in zip(pictures, written.chunk(len(pictures)), strict=True):
        if frame.resized:
            resized = resize(torch.from_numpy(np.array(picture))[None], frame)[0].numpy()
            _patchify_on_cpu(np.ascontiguousarray(resized), settings, part)
        else:
            _patchify_on_cpu(np.ascontiguousarray(picture), settings, part)
    if written is not out:
        out.copy_(written)


def resize(stack: Tensor, frame: PictureFrame) -> Tensor:
    """Pictures of one size, uint8 (pictures, height, width, 3), at their frame's processed size.

    Bicubic with antialiasing, in Pillow's two passes with uint8 between them.
    """
    planes = stack.permute(0, 3, 1, 2)
    if stack.device.type == "cpu":
        # Pillow's fixed-point arithmetic, which PyTorch has for CPUs only.
        planes = _bicubic(planes, frame.processed_height, frame.processed_width)
    else:
        for height in (stack.shape[1], frame.processed_height):
            planes = _bicubic(planes.float(), height, frame.processed_width).round_().clamp_(0, 255)
        planes = planes.to(torch.uint8)
    return planes.permute(0, 2, 3, 1)


def _bicubic(planes: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)


def _normalise(settings: ProcessorSettings) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Numbers a, b, c per channel such that (value / a - b) / c rounds as (value / 255 - mean) / std does.

    To divide by a power of two rounds nothing: where std is one, c comes out as 1, and a step can be left out.
    """
    mean, std = (np.array(values, np.float32)[:, None] for values in (settings.image_mean, settings.image_std))
    if all(math.frexp(value)[0] == 0.5 for value in settings.image_std):
        return 255 * std, mean / std, np.ones_like(std)
    return np.full_like(std, 255), mean, std


def _patchify(stack: Tensor, settings: ProcessorSettings, out: Tensor) -> None:
    """Cut uint8 (pictures, height, width, 3) into patches and write them normalised into `out`."""
    patch, merge = settings.patch_size, settings.merge_size
    count, height, width, _ = stack.shape
    rows, columns = count * height // settings.factor, width // settings.factor
    cut = stack.reshape(rows, merge, patch, columns, merge, patch, 3).permute(0, 3, 1, 4, 6, 2, 5)
    scale, shift, spread = (torch.from_numpy(numbers).to(stack.device)[:, None] for numbers in _normalise(settings))
    block = cut.reshape(rows, columns * merge**2, 3, 1, patch**2).float()
    block = block.div_(scale).sub_(shift).div_(spread)
    # A single picture fills every frame of its patches.
    out.view(rows, columns * merge**2, 3, settings.temporal_patch_size, patch**2).copy_(block)


def _patchify_on_cpu(picture: NDArray[np.uint8], settings: ProcessorSettings, out: Tensor) -> None:
    """The same for one picture on a CPU, in blocks that stay in a core's cache."""
    patch, factor = settings.patch_size, settings.factor
    rows, per_row = picture.shape[0] // factor, picture.shape[1] // factor * settings.merge_size**2
    target = out.view(rows, per_row, 3, settings.temporal_patch_size, patch**2)
    scale, shift, spread = (torch.from_numpy(numbers)[:, None] for numbers in _normalise(settings))
    spreads = bool((spread != 1).any())
    step = max(1, _BLOCK_BYTES // (12 * per_row * patch**2))
    for start in range(0, rows, step):
        written = target[start : start + step]
        cut = _cut(picture[start * factor : (start + step) * factor], patch, settings.merge_size)
        block = torch.from_numpy(cut).view(len(written), per_row, 3, 1, patch**2).float().div_(scale)
        # The last step writes every frame of the patches, which are copies of each other.
        if spreads:
            torch.div(block.sub_(shift).expand_as(written), spread, out=written)
        else:
            torch.sub(block.expand_as(written), shift, out=written)


def _cut(tall: NDArray[np.uint8], patch: int, merge: int) -> NDArray[np.uint8]:
    """Patches of (height, width, 3) in the order token row, token column, row, column, channel, y, x.

    A row of a patch moves as one item of `patch` bytes, which is several times as fast as byte by byte.
    """
    height, width, _ = tall.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    item = np.dtype(f"V{patch}")
    cut = np.empty((rows, columns, merge, merge, 3, patch), item)
    for channel, plane in enumerate(cv2.split(tall)):
        cut[..., channel, :] = plane.view(item).reshape(rows, merge, patch, columns, merge).transpose(0, 3, 1, 4, 2)
    return cut.view(np.uint8)


def resize_picture(picture: NDArray[np.uint8], frame: PictureFrame) -> NDArray[np.uint8]:
    """The picture at its frame's processed size, with the pixels that the in-process engine would see."""
    resized: NDArray[np.uint8] = resize(torch.from_numpy(np.array(picture))[None], frame)[0].numpy()
    return resized
