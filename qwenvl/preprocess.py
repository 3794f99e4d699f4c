"""Preprocessing: uint8 tiles to the patches of the vision tower, on the model's device.

Equal to the Hugging Face image processor (transformers `Qwen2VLImageProcessor`): bit for bit in float32 where no
resize happens, within the difference of its own two backends (2/255 of the value range) where one does.
Pixels stay uint8 until they are patches; there is no PIL and no float picture on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwenvl.errors import PictureError
from qwenvl.geometry import PictureFrame
from qwenvl.processor import ProcessorSettings

_BLOCK_BYTES = 2**20  # float32 bytes normalised at a time on a CPU: they stay in its second-level cache


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


def check_picture(picture: Any) -> None:
    """Raise PictureError unless `picture` is a uint8 RGB array (height, width, 3) with pixels."""
    if not isinstance(picture, np.ndarray):
        raise PictureError(
            f"a picture is a numpy array, not {type(picture).__name__}; convert it with np.asarray"
        )
    if picture.dtype != np.uint8:
        raise PictureError(
            f"a picture has dtype uint8, not {picture.dtype}; scale it to 0..255 and convert it"
        )
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise PictureError(f"a picture has shape (height, width, 3), not {picture.shape}; hand over RGB")
    if picture.size == 0:
        raise PictureError(f"a picture of shape {picture.shape} has no pixels")


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
    grids = [
        (1, f.processed_height // settings.patch_size, f.processed_width // settings.patch_size)
        for f in frames
    ]
    count = sum(rows * columns for _, rows, columns in grids)
    pixel_values = _memory(count, settings.patch_dim, device, dtype, out)
    start = 0
    for frame, members in groupby(range(len(pictures)), key=frames.__getitem__):
        stack = _stack([pictures[index] for index in members], device)
        if frame.resized:
            stack = _resize(stack, frame)
        stop = (
            start + stack.shape[0] * frame.processed_width * frame.processed_height // settings.patch_size**2
        )
        _patchify(stack, settings, pixel_values[start:stop])
        start = stop
    grid = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3)
    return Patches(pixel_values, grid, frames)


def _memory(count: int, width: int, device: torch.device, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    if out is not None and out.device == device and out.dtype == dtype and out.numel() >= count * width:
        return out.view(-1)[: count * width].view(count, width)
    return torch.empty(count, width, dtype=dtype, device=device)


def _stack(pictures: list[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """uint8 (pictures, height, width, 3) on `device`."""
    if len(pictures) == 1 and pictures[0].flags.c_contiguous and pictures[0].flags.writeable:
        stack = torch.from_numpy(pictures[0])[None]
    else:
        stack = torch.from_numpy(np.stack(pictures))
    return stack.to(device)


def _resize(stack: Tensor, frame: PictureFrame) -> Tensor:
    """Bicubic with antialiasing, in Pillow's two passes with uint8 between them."""
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


def _patchify(stack: Tensor, settings: ProcessorSettings, out: Tensor) -> None:
    """Cut uint8 (pictures, height, width, 3) into patches and write them normalised into `out`."""
    patch, merge = settings.patch_size, settings.merge_size
    count, height, width, _ = stack.shape
    rows, columns = count * height // settings.factor, width // settings.factor
    on_cpu = stack.device.type == "cpu"
    cut = _cut_wide if on_cpu and patch == _WIDE.itemsize else _cut
    patches = cut(stack.reshape(count * height, width, 3), patch, merge)
    patches = patches.view(rows, columns * merge**2, 3, 1, patch**2)
    target = out.view(rows, columns * merge**2, 3, settings.temporal_patch_size, patch**2)
    mean = torch.tensor(settings.image_mean, dtype=torch.float32, device=stack.device).view(3, 1, 1)
    std = torch.tensor(settings.image_std, dtype=torch.float32, device=stack.device).view(3, 1, 1)
    step = max(1, _BLOCK_BYTES // (4 * patches[0].numel())) if on_cpu else rows
    for start in range(0, rows, step):
        # The Hugging Face order of operations, so that every rounding is the same; frames are copies of each other.
        block = patches[start : start + step].float().div_(255).sub_(mean)
        written = target[start : start + step]
        if written.dtype == torch.float32:
            torch.div(block.expand_as(written), std, out=written)
        else:
            written.copy_(block.div_(std))


def _cut(tall: Tensor, patch: int, merge: int) -> Tensor:
    """uint8 (height, width, 3) to (token row, token column, row in token, column in token, channel, y, x)."""
    height, width, _ = tall.shape
    side = patch * merge
    cut = tall.reshape(height // side, merge, patch, width // side, merge, patch, 3)
    return cut.permute(0, 3, 1, 4, 6, 2, 5).contiguous()


def _cut_wide(tall: Tensor, patch: int, merge: int) -> Tensor:
    """The same for patches of 16 px on a CPU: a row of a patch moves as one 16-byte number, twice as fast."""
    import cv2

    height, width, _ = tall.shape
    side = patch * merge
    planes = torch.from_numpy(np.stack(cv2.split(tall.numpy()))).view(_WIDE)
    cut = planes.view(3, height // side, merge, patch, width // side, merge)
    return cut.permute(1, 4, 2, 5, 0, 3).contiguous().view(torch.uint8)


_WIDE = torch.complex128
