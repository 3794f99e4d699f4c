"""Questions and answers made from known tiles, and what augmentation does to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qwenvl.prompts import build_prompt
from qwenvl.request import Request, Task
from recipes.pretrain.config import PhaseConfig, PoolConfig
from recipes.pretrain.data import TilePool, TileSource, augment, window
from recipes.pretrain.dense import DenseTargets, reading_order, relative
from recipes.pretrain.language_phase import other_shapes
from recipes.pretrain.object_tasks import detect_question, every_nucleus, objects_answer
from recipes.pretrain.question import Question
from recipes.pretrain.real import crop_boxes, instance_boxes
from recipes.pretrain.tasks import SHARES, ask_about
from recipes.pretrain.tiles import CLASSES, LabelledTile
from recipes.pretrain.tokenizer import TextCodec, build_tokenizer
from recipes.pretrain.turns import IGNORED, TurnWriter, with_repeat
from recipes.pretrain.word_tasks import score_question

BOXES = np.array([[200, 5, 230, 30], [10, 8, 40, 30], [40, 100, 70, 130], [12, 100, 30, 120]], np.float32)


def tile(boxes: np.ndarray = BOXES, classes: tuple[int, ...] = (0, 1, 0, 4), tissue: int = 0) -> LabelledTile:
    return LabelledTile(
        image=np.full((256, 256, 3), 200, np.uint8),
        boxes=boxes,
        classes=np.array(classes, np.int64),
        tissue=tissue,
        findings=frozenset({"tumor", "mitosis", "gland"}),
        regions=(("gland", (0.0, 0.0, 100.0, 100.0)),),
    )


def test_objects_are_written_in_reading_order_with_the_label_asked_for() -> None:
    labels = {"tumor cell": frozenset([0]), "lymphocyte": frozenset([1])}
    question = detect_question(tile(), labels)
    assert question.prompt == build_prompt(Request(task=Task.DETECT, labels=("tumor cell", "lymphocyte")))
    assert json.loads(question.answer) == [
        {"bbox_2d": [39, 31, 156, 117], "label": "lymphocyte"},
        {"bbox_2d": [781, 20, 898, 117], "label": "tumor cell"},
        {"bbox_2d": [156, 391, 273, 508], "label": "tumor cell"},
    ]
    everything = json.loads(objects_answer(tile(), every_nucleus()))
    assert [item["label"] for item in everything] == ["nucleus"] * 4
    assert everything[2]["bbox_2d"] == [47, 391, 117, 469]
    assert objects_answer(tile(), {"plasma cell": frozenset()}) == "[]"
    assert json.loads(objects_answer(tile(), {"mitosis": frozenset([4])}, points=True)) == [
        {"point_2d": [82, 430], "label": "mitosis"}
    ]


def test_reading_order_is_by_cell_then_quarter() -> None:
    assert reading_order(BOXES).tolist() == [1, 0, 3, 2]
    assert relative(np.array([[0, 128, 255.6, 256]], np.float32), (256, 256)).tolist() == [[0, 500, 1000, 1000]]


@pytest.mark.parametrize("task", SHARES)
def test_every_task_gives_a_well_formed_answer(task: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        question = ask_about(tile(), rng, task)
        assert question.prompt.strip()
        if question.has_coordinates:
            for item in json.loads(question.answer):
                values = item.get("bbox_2d") or item["point_2d"]
                assert all(isinstance(v, int) and 0 <= v <= 1000 for v in values)
                assert item["label"] in question.prompt
        elif task == "count":
            assert 0 <= int(question.answer) <= 4
        elif task == "score":
            assert question.answer in ("yes", "no")
        elif task == "classify":
            assert f'"{question.answer}"' in question.prompt
        elif task == "extract":
            assert set(json.loads(question.answer)) <= {
                "tissue",
                "nuclei",
                "tumor_cells",
                "lymphocytes",
                "mitoses",
                "necrosis",
            }


def test_most_questions_are_in_the_words_of_the_project() -> None:
    rng = np.random.default_rng(0)
    start = "Locate every object of these classes:"
    detect = [ask_about(tile(), rng, "detect").prompt for _ in range(300)]
    assert np.mean([prompt.startswith(start) for prompt in detect]) > 0.6
    assert score_question("tumor", True).prompt == "Is there tumor in this image? Answer yes or no."


def test_augmentation_moves_boxes_with_their_nuclei() -> None:
    image = np.full((256, 256, 3), 230, np.uint8)
    image[20:60, 100:120] = (80, 30, 120)
    plain = LabelledTile(image, np.array([[100, 20, 120, 60]], np.float32), np.array([0]), tissue=0)
    for seed in range(24):
        changed = augment(plain, np.random.default_rng(seed))
        dark = changed.image.astype(int).sum(2) < 480
        ys, xs = np.nonzero(dark)
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(found - changed.boxes[0]).max() <= 2


def test_dense_targets_hold_two_objects_per_cell() -> None:
    boxes = np.array([[0, 0, 20, 20], [10, 10, 40, 40], [0, 20, 20, 40], [240, 240, 256, 256]], np.float32)
    targets = DenseTargets.of([tile(boxes, (0, 1, 2, 3))])
    assert targets.count[0, 0] == 3
    assert targets.label[0, 0].tolist() == [0, 2]
    assert targets.box[0, 63, 0].tolist() == [938, 938, 1000, 1000]
    assert int(targets.filled.sum()) == 3


def test_crops_of_instance_maps() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[5:15, 10:30] = 3
    labels[30:40, 50:60] = 9
    boxes = instance_boxes(labels)
    assert boxes.tolist() == [[10, 5, 30, 15], [50, 30, 60, 40]]
    assert crop_boxes(boxes, 5, 0, 20, 2.0).tolist() == [[10, 10, 40, 30]]
    assert len(crop_boxes(boxes, 26, 0, 20, 2.0)) == 0


def test_class_names_agree_with_the_factory() -> None:
    from wsi.synthetic import sample_field

    field = sample_field(4, max_nuclei=12)
    assert set(field.labels) <= set(CLASSES)


def test_shaken_and_repeated_objects_are_read_but_never_targets() -> None:
    """What the model may have written wrongly before changes what it reads, not what it is to write."""
    codec = TextCodec(build_tokenizer(["user\nLocate nucleus.\nassistant\n"]))
    writer = TurnWriter(codec, (2, 2))
    boxes = [[100, 200, 300, 400], [600, 610, 700, 720], [800, 820, 950, 990]]
    answer = json.dumps([{"bbox_2d": box, "label": "nucleus"} for box in boxes])
    question = Question("detect", "Locate nucleus.", answer)
    numbers = [value for box in boxes for value in box]
    plain = writer.batch([question], [0])
    shaken = repeated = False
    for seed in range(40):
        turns = writer.batch([question], [0], np.random.default_rng(seed))
        places, pointers = turns.places[0], turns.pointers[0]
        assert places[places != IGNORED].tolist() == numbers
        assert pointers[pointers != IGNORED].tolist() == [0] * 4 + [3] * 8
        written = codec.decode(turns.ids[0, turns.ids[0] != codec.special["<|endoftext|>"]])
        repeated |= written.count("bbox_2d") > 3
        shaken |= written.count("bbox_2d") == 3 and not torch.equal(turns.ids, plain.ids)
        targets = turns.targets[0][turns.targets[0] != IGNORED]
        assert codec.decode(targets) == answer
    assert shaken
    assert repeated


def test_a_repeat_stands_behind_its_object() -> None:
    """Where the second one is said to be, it is."""
    answer = json.dumps([{"bbox_2d": [i, i, i + 9, i + 9], "label": "nucleus"} for i in range(4)])
    for seed in range(20):
        text, (first, last) = with_repeat(answer, np.random.default_rng(seed))
        objects = json.loads(text)
        assert all(objects[i] == objects[first - 1] for i in range(first, last))
        assert objects[:first] + objects[last:] == json.loads(answer)
    assert with_repeat("[]", np.random.default_rng(0)) == ("[]", (0, 0))


def test_a_window_is_a_tile_of_its_own_shape() -> None:
    """Width and height count apart: in the numbers of an answer, in the cells of the tower, in the pointers."""
    shape = (64, 192)
    for seed in range(8):
        cut = window(tile(), shape, np.random.default_rng(seed))
        assert cut.image.shape == (*shape, 3)
        assert cut.cells == (2, 6)
        assert not cut.named, "what the whole tile shows says nothing of a part"
        assert (cut.boxes >= 0).all()
        assert (cut.boxes[:, 2:] <= (192, 64)).all()
    whole = window(tile(), (256, 256), np.random.default_rng(0))
    assert whole.named
    flat = replace(tile(np.array([[160, 32, 190, 60]], np.float32), (0,)), image=np.zeros((*shape, 3), np.uint8))
    assert json.loads(objects_answer(flat, every_nucleus()))[0]["bbox_2d"] == [833, 500, 990, 938]
    targets = DenseTargets.of([flat])
    assert targets.count[0].nonzero().flatten().tolist() == [11]
    codec = TextCodec(build_tokenizer(["user\nLocate nucleus.\nassistant\n"]))
    turns = TurnWriter(codec, flat.cells).batch([detect_question(flat, every_nucleus())], [0])
    assert turns.pointers[turns.pointers != IGNORED].tolist() == [11] * 4
    assert int((turns.ids == codec.special["<|image_pad|>"]).sum()) == 12


def test_fresh_tiles_have_about_the_usual_area_and_stay_as_they_were_drawn(tmp_path: Path) -> None:
    phase = PhaseConfig(steps=200, other_sides=(64, 96, 128, 192), other_share=0.5)
    shapes = other_shapes(phase, 96, seed=3)
    assert shapes == other_shapes(phase, 96, seed=3)
    assert 70 < len(shapes) < 130
    assert {(96, 96), (64, 128), (128, 64)} == set(shapes.values())
    pool = TilePool(PoolConfig(shard_size=4, shards=1, tile=96, mixed_from=0), tmp_path)
    source = TileSource(pool, None, seed=3)
    step = next(s for s, shape in shapes.items() if shape == (64, 128))
    [first] = source.batches(3, step, step + 1, 8, {}, shapes)
    [again] = source.batches(3, step, step + 1, 8, {}, shapes)
    assert [t.image.shape for t in first] == [(64, 128, 3)] * 8
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
