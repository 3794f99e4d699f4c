"""A planted box travels label -> sample -> tokens -> parse -> level-0 and comes back, in every family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.dataset.cutting import Cutter, TileSpec, place_tile
from finetune.dataset.samples import Dataset, Label, SlideEntry, whole
from finetune.examples.conversation import Writer
from finetune.examples.examples import Augmentation, MarkChange
from finetune.examples.label_source import LabelSource
from finetune.examples.tokens import TurnTokens
from qwenvl.answer import TileObject
from qwenvl.checkpoints.loading import load_checkpoint
from qwenvl.families import FAMILIES, get_family
from qwenvl.images.processor import ProcessorSettings
from qwenvl.request import Request

NAMES = ("mitosis", 'cell, odd "one"')
SLIDE = SlideEntry("s", "s.png", "sha256:0", 5000, 4000, 0.25, "s", "train")
TRAINABLE = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-Thinking", "Qwen3-VL-MoE", "Qwen3.5")


def unit0(writer: Writer, frame, tile) -> np.ndarray:
    """One model unit in level-0 px, along x and y; of whole-pixel writers, one px."""
    width, height = frame.extent(writer.family.space)
    px = np.array([tile.width0 / frame.processed_width, tile.height0 / frame.processed_height])
    unit = np.array([tile.width0 / width, tile.height0 / height])
    return np.maximum(unit, px) if writer.whole_pixels else unit


box_numbers = st.tuples(
    st.floats(0, 4900), st.floats(0, 3900), st.floats(8, 90), st.floats(8, 90), st.integers(90, 1500), st.floats(0.5, 3)
)


@pytest.mark.parametrize("family_name", list(FAMILIES))
@settings(max_examples=60, deadline=None)
@given(numbers=box_numbers, mirror=st.booleans(), quarters=st.integers(0, 3))
def test_text_of_every_family_brings_a_box_back(family_name, numbers, mirror, quarters):
    family = get_family(family_name)
    x, y, w, h, size, downsample = numbers
    box = (x, y, min(5000.0, x + w * downsample), min(4000.0, y + h * downsample))
    dataset = Dataset("d", NAMES, (SLIDE,), (Label("s", NAMES[0], box),), (whole(SLIDE),))
    spec = TileSpec(size=size, downsample=downsample, visible=1.0, least_side=0)
    tile = place_tile(SLIDE, x - 20, y - 20, spec)
    cut = Cutter(dataset, spec, NAMES).cut(SLIDE, tile)
    if not cut.objects:
        return  # larger than its tile
    writer = Writer(family, family.factor)
    request = Request(task="detect", labels=NAMES[:1])
    change = MarkChange(mirror, quarters if tile.width == tile.height else 0)
    objects = change.objects(cut.objects, tile.width, tile.height)
    frame = family.frame(tile.width, tile.height)
    answer = writer.read(writer.answer(request.task, objects, frame), request, frame)
    assert [item.label for item in answer.objects] == [NAMES[0]]
    back = answer.objects[0].box
    back = undo(change, back, tile.width, tile.height)
    low, high = tile.to_level0(*back[:2]), tile.to_level0(*back[2:])
    error = np.abs(np.array([*low, *high]) - np.array(box))
    assert (error <= np.tile(unit0(writer, frame, tile), 2) + 1e-6).all()


def undo(change: MarkChange, box, width, height):
    """The inverse of a change, from its definition."""
    x0, y0, x1, y1 = box
    for _ in range(change.quarters):  # only squares are turned by quarters here
        x0, y0, x1, y1 = width - y1, x0, width - y0, x1
    if change.mirror:
        x0, x1 = width - x1, width - x0
    return x0, y0, x1, y1


@pytest.mark.parametrize("size", [224, 250, 448, 600], ids=lambda size: f"{size}px")
@pytest.mark.parametrize("family_name", TRAINABLE)
def test_tokens_of_every_family_bring_a_box_back(family_name, size, tiny):
    """With each family's own tokenizer and processor limits: 600 px is more than the tiny checkpoints take."""
    checkpoint = load_checkpoint(tiny(family_name))
    boxes = [(100.0, 100.0, 180.5, 163.25), (300.3, 40.0, 340.0, 90.9), (20.0, 400.0, 61.0, 444.0)]
    labels = tuple(Label("s", NAMES[i % 2], box) for i, box in enumerate(boxes))
    dataset = Dataset("d", NAMES, (SLIDE,), labels, (whole(SLIDE),))
    spec = TileSpec(size=size, downsample=460 / size, visible=1.0)
    writer = Writer.of(checkpoint.description)
    source = LabelSource(
        Cutter(dataset, spec, NAMES),
        "train",
        Request(task="detect", labels=NAMES, tile_size=size, overlap=0),
        writer,
        TurnTokens(checkpoint.tokenizer, checkpoint.family),
        checkpoint.processor,
        augment=Augmentation(turns=False),
    )
    cut = source.cutter.cut(SLIDE, place_tile(SLIDE, 0, 0, spec))
    assert len(cut.objects) == 3
    plan = source.plan_of(cut)
    taught = [token for token, on in zip(plan.tokens.ids, plan.tokens.taught, strict=True) if on]
    frame = checkpoint.processor.frame(size, size)
    assert frame.resized == (size in (250, 600) or size % checkpoint.processor.factor != 0)
    text = checkpoint.tokenizer.decode(taught, skip_special_tokens=False)
    answer = writer.read(text, source.request, frame)
    unit = np.tile(unit0(writer, frame, cut.tile), 2) + 1e-6
    found = sorted((*cut.tile.to_level0(*o.box[:2]), *cut.tile.to_level0(*o.box[2:])) for o in answer.objects)
    assert (np.abs(np.array(found) - np.array(sorted(boxes))) <= unit).all()


def test_a_wrong_grid_would_be_seen(tiny):
    """The fault that peers have: numbers of the stored picture where the family counts px of the resized one."""
    family = get_family("Qwen2.5-VL")
    writer = Writer(family, family.factor)
    frame = family.frame(1024, 1024, max_pixels=672 * 672)
    item = TileObject("cell", box=(600.0, 600.0, 640.0, 640.0))
    text = writer.answer(Request(task="detect", labels=("cell",)).task, [item], frame)
    assert "[394, 394, 420, 420]" in text  # 600 * 672 / 1024 and 640 * 672 / 1024


def test_whole_pixels_of_the_embedded_model():
    """It knows only numbers that are whole px of its tile."""
    writer = Writer(get_family("Qwen3-VL"), 32, whole_pixels=True)
    frame = ProcessorSettings.of_family(get_family("Qwen3-VL")).frame(256, 256)
    values = writer.to_model(np.linspace(0, 256, 500)[:, None].repeat(4, 1), frame)
    allowed = {round(px * 1000 / 256) for px in range(257)}
    assert set(values.ravel().tolist()) <= allowed


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_pixels_and_boxes_turn_together(mirror, quarters):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[10:20, 30:50] = 255
    change = MarkChange(mirror, quarters)
    (item,) = change.objects([TileObject("cell", box=(30.0, 10.0, 50.0, 20.0))], 96, 64)
    rows, columns = np.nonzero(change.picture(picture)[..., 0])
    assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_points_and_counts(tiny):
    writer = Writer(get_family("Qwen3-VL"), 32)
    frame = get_family("Qwen3-VL").frame(320, 320)
    items = [TileObject("a", box=(10, 10, 20, 30)), TileObject("a", point=(160, 160))]
    request = Request(task="point", labels=("a",))
    text = writer.answer(request.task, items, frame)
    assert [o.point for o in writer.read(text, request, frame).objects] == [(15.04, 19.84), (160.0, 160.0)]
    assert writer.answer(Request(task="count", labels=("a",)).task, items, frame) == "2"


@pytest.mark.parametrize("family_name", ["Qwen-VL", "Qwen2-VL", "Qwen3-VL"])
def test_an_empty_tile_reads_as_empty(family_name):
    family = get_family(family_name)
    writer, request = Writer(family, family.factor), Request(task="detect", labels=("cell",))
    frame = family.frame(448, 448)
    answer = writer.read(writer.answer(request.task, [], frame), request, frame)
    assert answer.status == "empty"
