"""Answers of a model under training, by transformers' own `generate`, and how good they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.pretrain.geometry import PATCH
from recipes.pretrain.metrics import BoxTally
from recipes.pretrain.model import as_tensor, patchify, processor_pixels
from recipes.pretrain.object_tasks import detect_question, every_nucleus
from recipes.pretrain.tiles import CLASSES, LabelledTile
from recipes.pretrain.tokenizer import LARGEST_NUMBER, TextCodec
from recipes.pretrain.turns import TurnWriter


@torch.no_grad()
def generate(
    model: Any,
    codec: TextCodec,
    tiles: list[LabelledTile],
    prompts: list[str],
    device: torch.device,
    longest: int = 320,
) -> list[str]:
    """Greedy answers to one prompt per tile; tiles of one shape, prompts of any length (padded left)."""
    height, width = tiles[0].image.shape[:2]
    writer = TurnWriter(codec, tiles[0].cells)
    rows = [writer.prompt(prompt) for prompt in prompts]
    length = max(map(len, rows))
    pad = codec.special["<|endoftext|>"]
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    patches = patchify(as_tensor(np.stack([tile.image for tile in tiles]), device))
    out = model.eval().generate(
        input_ids=ids,
        attention_mask=mask,
        mm_token_type_ids=torch.eq(ids, codec.special["<|image_pad|>"]).int(),
        pixel_values=processor_pixels(patches.flatten(0, 1)),
        image_grid_thw=torch.tensor([[1, height // PATCH, width // PATCH]] * len(tiles), device=device),
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=codec.special["<|im_end|>"],
        pad_token_id=pad,
    )
    return [codec.decode(row[length:].tolist()) for row in out]


def read_boxes(text: str, size: int) -> tuple[NDArray[np.float64], list[str]] | None:
    """Boxes in tile px and labels of a strictly valid answer; None when it is not one."""
    try:
        items = json.loads(text)
        boxes = np.array([item["bbox_2d"] for item in items], np.float64).reshape(-1, 4)
        labels = [str(item["label"]) for item in items]
    except (ValueError, TypeError, KeyError):
        return None
    return boxes * (size / LARGEST_NUMBER), labels


def answer_scores(model: Any, codec: TextCodec, tiles: list[LabelledTile], device: torch.device) -> dict[str, float]:
    """Parse rate, F1 of all nuclei, and F1 and class accuracy where every class is asked for by name."""
    all_classes = {name: frozenset([k]) for k, name in enumerate(CLASSES)}
    asked = {"nucleus": every_nucleus()} | ({"classes": all_classes} if tiles[0].named else {})
    scores: dict[str, float] = {}
    for kind, labels in asked.items():
        tally, parsed = BoxTally(), 0
        prompt = detect_question(tiles[0], labels).prompt
        for start in range(0, len(tiles), 16):
            part = tiles[start : start + 16]
            for tile, text in zip(part, generate(model, codec, part, [prompt] * len(part), device), strict=True):
                read = read_boxes(text, tile.image.shape[0])
                parsed += read is not None
                boxes, found = read if read is not None else (np.zeros((0, 4)), [])
                names = [CLASSES[c] if c >= 0 else "" for c in tile.classes]
                tally.add(boxes, tile.boxes, found, names)
        scores |= {f"{kind} parsed": parsed / len(tiles), f"{kind} f1": tally.f1}
        if kind == "classes":
            scores["class accuracy"] = tally.class_accuracy
    return scores
