"""First weights that would take long to learn: numbers as waves, patches as a cosine transform, a grid of sines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.pretrain.geometry import PATCH
from recipes.pretrain.tokenizer import LARGEST_NUMBER, TextCodec


def fourier_numbers(width: int, count: int = LARGEST_NUMBER + 1, frequencies: int = 32) -> Tensor:
    """Embeddings of 0..count-1 of about unit norm: close numbers are close vectors, (count, width)."""
    frequencies = min(frequencies, width // 2)
    generator = torch.Generator().manual_seed(11)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[:, : 2 * frequencies]
    cycles = torch.logspace(math.log10(0.5), math.log10(90.0), frequencies)
    angle = 2 * math.pi * torch.arange(count)[:, None] / LARGEST_NUMBER * cycles[None]
    waves = torch.cat([angle.cos(), angle.sin()], 1) / math.sqrt(frequencies)
    return waves @ basis.T


def init_embeddings(weight: Tensor, codec: TextCodec) -> None:
    """Random words, Fourier numbers; a number with a comma is the number plus one direction of its own."""
    generator = torch.Generator().manual_seed(12)
    width = weight.shape[1]
    weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(width) * 0.7)
    waves = fourier_numbers(width)
    kinds = torch.randn(2, width, generator=generator) / math.sqrt(width) * 0.7
    for ids, kind in ((codec.bare_numbers, kinds[0]), (codec.comma_numbers, kinds[1])):
        weight[torch.from_numpy(ids)] = waves + kind


def init_patches(proj: nn.Conv3d) -> None:
    """Cosine transform of three opponent colours, low frequencies first, so that no detail is lost at the start."""
    width = proj.out_channels
    n = np.arange(PATCH)
    dct = np.cos(np.pi * (n[None] + 0.5) * n[:, None] / PATCH) * math.sqrt(2 / PATCH)
    dct[0] /= math.sqrt(2)
    colours = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    order = sorted(
        ((c, u, v) for c in range(3) for u in range(PATCH) for v in range(PATCH)),
        key=lambda cuv: math.hypot(cuv[1], cuv[2]) + (0.0 if cuv[0] == 0 else 1.5),
    )[:width]
    for row, (c, u, v) in enumerate(order):
        kernel = colours[c][:, None, None] * dct[u][None, :, None] * dct[v][None, None, :]
        gain = 0.08 * (1.0 + 2.0 * math.hypot(u, v)) * (1.0 if c == 0 else 2.5)
        both_frames = torch.from_numpy(kernel * min(gain, 1.0) / 2).float()
        proj.weight[row] = both_frames[:, None].expand(-1, 2, -1, -1)
    assert proj.bias is not None
    proj.bias.zero_()


def init_positions(weight: Tensor, grid: int) -> None:
    """Sines and cosines of row and column over the (grid * grid, width) table of positions."""
    width = weight.shape[1]
    axis = (torch.arange(grid) / max(grid - 1, 1))[:, None]
    cycles = torch.logspace(math.log10(0.25), math.log10(grid / 2), width // 4)
    waves = torch.cat([(2 * math.pi * axis * cycles).cos(), (2 * math.pi * axis * cycles).sin()], 1) * 0.4
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    weight.copy_(torch.cat([rows, columns], -1).reshape(grid * grid, width))


def init_language(layers: nn.ModuleList) -> None:
    """Matrices of the language layers at the scale of their width; 0.02, made for wide models, starts too slowly.

    Normed queries and keys start long enough for attention to single out one of hundreds of tokens.
    """
    for layer in layers:
        attention: Any = layer.self_attn
        nn.init.constant_(attention.q_norm.weight, 1.6)
        nn.init.constant_(attention.k_norm.weight, 1.6)
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                last = name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(module.weight, std=(0.5 if last else 1.0) / math.sqrt(module.in_features))


@torch.no_grad()
def rescale_merger(merger: nn.Module, tokens: Tensor, wanted: float) -> None:
    """Scale a merger's output so that its tokens have the root mean square `wanted`.

    The dense heads normalise what they read and do not notice; the language model adds its words to these
    tokens, and words of norm one would drown beside vision tokens of norm ten.
    """
    factor = wanted / float(tokens.float().pow(2).mean().sqrt())
    merger.linear_fc2.weight.mul_(factor)  # type: ignore[union-attr, operator]
    merger.linear_fc2.bias.mul_(factor)  # type: ignore[union-attr, operator]


@torch.no_grad()
def copy_box_head(attention: Any, heads: Any, objects: Tensor, wanted: float = 3.0) -> None:
    """Let attention heads copy what the box head of the vision phase reads: head 4 * i + j coordinate j of slot i.

    Learning where to look and what to take away at once is a saddle that costs most of the training of a small
    model; with the second given, the first is learned within minutes. Keys start from the objectness of a cell.

    Parameters
    ----------
    attention : Qwen3VLTextAttention
        With at least one head per coordinate; with fewer nothing is done, and those for a second slot may lack.
    heads : DenseHeads
    objects : (n, width)
        Merged tokens of cells that hold an object, for the scale.
    wanted : float
        Norm of what is copied.
    """
    size, width = attention.head_dim, objects.shape[1]
    if attention.k_proj.out_features < 4 * size or not len(objects):
        return
    centred = torch.eye(width) - 1.0 / width
    reading = torch.diag(heads.norm.weight) @ centred
    normed = objects * torch.rsqrt(objects.pow(2).mean(-1, keepdim=True) + 1e-6)
    numbers = heads.number.weight.view(-1, width, width)
    for j in range(min(len(numbers), attention.k_proj.out_features // size // 4 * 4)):
        count = (heads.count.weight[j // 4 + 1] - heads.count.weight[j // 4]) @ reading
        full = numbers[j] @ reading
        full = full * (wanted / (normed @ full.T).norm(dim=-1).mean())
        u, s, v = torch.linalg.svd(full)
        rows = slice(j * size, (j + 1) * size)
        attention.v_proj.weight[rows] = s[:size, None].sqrt() * v[:size]
        attention.o_proj.weight[:, rows] = u[:, :size] * s[None, :size].sqrt()
        spread = (normed @ count).std()
        attention.k_proj.weight[j * size + size // 2 - 1] = count * (3.0 / spread)
