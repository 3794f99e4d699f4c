"""The small Qwen3-VL: its configuration, its first weights, and batched passes that equal those of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.pretrain.config import ModelShape
from recipes.pretrain.first_weights import init_embeddings, init_language, init_patches, init_positions
from recipes.pretrain.geometry import CELL, MERGE, PATCH
from recipes.pretrain.tokenizer import TextCodec

Compared = tuple[Tensor, Tensor, Tensor]
"""Scaled queries, keys and values of a layer, all (batch, heads, length, head width)."""


def build_model(shape: ModelShape, codec: TextCodec) -> Any:
    """A `Qwen3VLForConditionalGeneration` with fresh weights, in float32.

    Number embeddings are Fourier features of their value, patches enter through a cosine transform and the
    position grid is sinusoidal: all three can be learned, but not in minutes.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    third = shape.head_dim // 6
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": codec.size,
            "hidden_size": shape.width,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_heads,
            "head_dim": shape.head_dim,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": shape.rope_theta,
                "mrope_section": [shape.head_dim // 2 - 2 * third, third, third],
                "mrope_interleaved": True,
            },
            "pad_token_id": codec.special["<|endoftext|>"],
            "bos_token_id": codec.special["<|endoftext|>"],
            "eos_token_id": codec.special["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_mlp,
            "num_heads": shape.vision_heads,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": shape.width,
            "num_position_embeddings": shape.grid**2,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
        image_token_id=codec.special["<|image_pad|>"],
        video_token_id=codec.special["<|video_pad|>"],
        vision_start_token_id=codec.special["<|vision_start|>"],
        vision_end_token_id=codec.special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config).float()
    with torch.no_grad():
        init_embeddings(model.model.language_model.embed_tokens.weight, codec)
        init_patches(model.model.visual.patch_embed.proj)
        init_positions(model.model.visual.pos_embed.weight, shape.grid)
        init_language(model.model.language_model.layers)
        for block in model.model.visual.blocks:
            for linear in (block.attn.qkv, block.mlp.linear_fc1):
                nn.init.xavier_uniform_(linear.weight)
        for merger in (model.model.visual.merger, *model.model.visual.deepstack_merger_list):
            nn.init.xavier_uniform_(merger.linear_fc1.weight)
            nn.init.xavier_uniform_(merger.linear_fc2.weight)
    model.tie_weights()
    return model


def patchify(pictures: Tensor) -> Tensor:
    """uint8 (batch, height, width, 3) -> float32 (batch, patches, 3 * 16 * 16) in -1..1, in Qwen3-VL's order."""
    b, height, width, _ = pictures.shape
    x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    x = x.view(b, 3, height // CELL, MERGE, PATCH, width // CELL, MERGE, PATCH)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, -1, 3 * PATCH * PATCH)


def processor_pixels(patches: Tensor) -> Tensor:
    """The same patches as transformers' processor gives them: every picture twice in time, flat."""
    twice = patches.view(-1, 3, 1, PATCH, PATCH).expand(-1, 3, 2, PATCH, PATCH)
    return twice.reshape(twice.shape[0], -1)


def encode_pictures(visual: Any, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
    """The vision tower over pictures of one size as one batch.

    Parameters
    ----------
    visual : Qwen3VLVisionModel
    patches : float (batch, patches, 768)
    grid : (rows, columns) of patches

    Returns
    -------
    merged : (batch, cells, width)
    deepstack : list of (batch, cells, width)
    """
    x = F.linear(patches, visual.patch_embed.proj.weight.sum(2).flatten(1), visual.patch_embed.proj.bias)
    positions, (cos, sin) = _vision_positions(visual, grid, patches.device)
    x = x + positions
    b, n, width = x.shape
    heads = visual.config.num_heads
    deepstack = []
    for index, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(x)).view(b, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
        q, k = _rotate(qkv[0], cos, sin), _rotate(qkv[1], cos, sin)
        mixed = _attend(q, k, qkv[2]).transpose(1, 2).reshape(b, n, width)
        x = x + block.attn.proj(mixed)
        x = x + block.mlp(block.norm2(x))
        if index in visual.deepstack_visual_indexes:
            tap = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(index)]
            deepstack.append(tap(x).view(b, n // MERGE**2, -1))
    return visual.merger(x).view(b, n // MERGE**2, -1), deepstack


def answer_states(
    model: Any,
    ids: Tensor,
    cells: tuple[int, int],
    merged: Tensor,
    deepstack: list[Tensor],
    first_cell: int,
    looked: list[Compared] | None = None,
) -> Tensor:
    """Last hidden states (after the norm) of right-padded sequences that hold one picture each at the same place.

    Parameters
    ----------
    ids : int64 (batch, length)
        Image tokens included.
    cells : (rows, columns) of merged tokens
    first_cell : int
        Index of the first image token.
    looked : list, optional
        Takes scaled queries, keys and values of every layer, all (batch, heads, length, head width).

    Returns
    -------
    (batch, length, width)
    """
    language = model.model.language_model
    count = cells[0] * cells[1]
    x = language.embed_tokens(ids)
    x = torch.cat([x[:, :first_cell], merged.to(x.dtype), x[:, first_cell + count :]], 1)
    turns = language.rotary_emb(x, rope_positions(cells, first_cell, ids.shape[1], ids.device)[:, None])
    for index, layer in enumerate(language.layers):
        x, compared = _language_layer(layer, x, turns)
        if looked is not None:
            looked.append(compared)
        if index < len(deepstack):
            added = x[:, first_cell : first_cell + count] + deepstack[index].to(x.dtype)
            x = torch.cat([x[:, :first_cell], added, x[:, first_cell + count :]], 1)
    normed: Tensor = language.norm(x)
    return normed


@torch.no_grad()
def greedy_answers(
    model: Any,
    prompts: list[list[int]],
    cells: tuple[int, int],
    merged: Tensor,
    deepstack: list[Tensor],
    first_cell: int,
    end: int,
    longest: int,
) -> list[list[int]]:
    """The most probable token after the other, as transformers' `generate` without sampling, from tokens of pictures.

    While a model trains its pictures are encoded anyway, and keys and values of known length need not grow: a third
    of the time of `generate`.

    Parameters
    ----------
    prompts : lists of int
        Picture tokens included; of any length.
    cells, merged, deepstack, first_cell
        As in `answer_states`, one picture per prompt.
    end : int
        Token that ends an answer.
    longest : int
        Most tokens of an answer.

    Returns
    -------
    list of list of int
        Without the end.
    """
    device, language = merged.device, model.model.language_model
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows, first = torch.arange(len(prompts), device=device), int(lengths.max())
    ids = torch.full((len(prompts), first), end, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
    compared: list[Compared] = []
    states = answer_states(model, ids, cells, merged, deepstack, first_cell, compared)
    past = [tuple(F.pad(part.float(), (0, 0, 0, longest)) for part in layer[1:]) for layer in compared]
    places = torch.arange(first + longest, device=device)
    hidden = torch.zeros(len(prompts), 1, 1, first + longest, device=device)
    hidden.masked_fill_(((places >= lengths[:, None]) & (places < first))[:, None, None], float("-inf"))
    positions = rope_positions(cells, first_cell, first + longest, device)[:, None]
    cos, sin = (table[0] for table in language.rotary_emb(states.float(), positions))
    token = model.lm_head(states[rows, lengths - 1]).argmax(-1)
    answers: list[list[int]] = [[] for _ in prompts]
    going = torch.ones_like(token, dtype=torch.bool)
    for step in range(longest):
        going = going & (token != end)
        for row, one in zip(rows[going].tolist(), token[going].tolist(), strict=True):
            answers[row].append(one)
        if not going.any() or step + 1 == longest:
            break
        if going.sum() <= len(going) // 2:  # those that are done cost as much as the others
            rows, token, lengths, hidden = (kept[going] for kept in (rows, token, lengths, hidden))
            past = [tuple(part[going] for part in layer) for layer in past]
            going = going[going]
        x, turns = (language.embed_tokens(token[:, None]), (cos[lengths + step][:, None], sin[lengths + step][:, None]))
        for layer, (keys, values) in zip(language.layers, past, strict=True):
            x, _ = _language_layer(layer, x, turns, (keys, values, hidden, first + step))
        token = model.lm_head(language.norm(x)[:, 0]).argmax(-1)
    return answers


def _language_layer(
    layer: Any, x: Tensor, turns: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor, int] | None = None
) -> tuple[Tensor, Compared]:
    """One causal decoder layer, and what its attention compared.

    With keys, values, what is hidden of them and a place, `x` is the one token of that place, which is written there.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    shape = (*x.shape[:2], -1, attention.head_dim)
    q = attention.q_norm(attention.q_proj(normed).view(shape)).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
    v = attention.v_proj(normed).view(shape).transpose(1, 2)
    cos, sin = turns[0].unsqueeze(1).to(v.dtype), turns[1].unsqueeze(1).to(v.dtype)
    q, k = _rotate(q.to(v.dtype), cos, sin) * attention.scaling, _rotate(k.to(v.dtype), cos, sin)
    groups = attention.num_key_value_groups
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if past is not None:
        keys, values, hidden, place = past
        keys[:, :, place], values[:, :, place] = k[:, :, 0], v[:, :, 0]
        upto = slice(place + 1)
        scores = q @ keys[:, :, upto].transpose(-1, -2) + hidden[..., upto]
        mixed = scores.softmax(-1) @ values[:, :, upto]
    elif q.dtype == torch.bfloat16 and q.device.type == "cpu":
        length = x.shape[1]
        future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
        mixed = (q @ k.transpose(-1, -2) + future).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    x = x + attention.o_proj(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))
    return x + layer.mlp(layer.post_attention_layernorm(x)), (q, k, v)


def rope_positions(cells: tuple[int, int], first_cell: int, length: int, device: torch.device) -> Tensor:
    """M-RoPE positions (time, row, column) of a sequence with one picture, int64 (3, length)."""
    rows, columns = cells
    text = torch.arange(length, device=device)
    shift = rows * columns - max(rows, columns)
    positions = torch.where(text < first_cell + rows * columns, text, text - shift).expand(3, -1).clone()
    inside = slice(first_cell, first_cell + rows * columns)
    order = torch.arange(rows * columns, device=device)
    positions[0, inside] = first_cell
    positions[1, inside] = first_cell + order // columns
    positions[2, inside] = first_cell + order % columns
    return positions


def parameter_count(module: nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(p.numel() for p in module.parameters())


_POSITIONS: dict[tuple[tuple[int, int], str], tuple[Tensor, Tensor, Tensor]] = {}


def _vision_positions(visual: Any, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

    key = (grid, f"{device}/{visual.num_grid_per_side}/{visual.config.hidden_size // visual.config.num_heads}")
    if key not in _POSITIONS:
        thw = torch.tensor([[1, *grid]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            thw,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=MERGE,
            kwargs={},
        )
        ids = get_vision_position_ids(thw, MERGE, kwargs={})
        _POSITIONS[key] = (indices.to(device), weights.to(device), ids.to(device))
    indices, weights, ids = _POSITIONS[key]
    learned = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    return learned, visual.rotary_pos_emb(learned, ids)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos + turned * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        # The fused kernel computes in float32 there; plain bfloat16 products are three times as fast.
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def as_tensor(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Pictures on the device, still uint8."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
