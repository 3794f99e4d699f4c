"""What a training is made of: reviewed runs and layers as labels at their place, and what is wrong with them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image, Labels, Points, Shapes
from panel_helpers import make_run, make_slide

from finetune.dataset.cutting import TileSpec
from finetune.dataset.samples import Dataset
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.train.gather import HELD_OUT, TRAIN, gather
from napari_qwenvl.train.queue import uncertain_tiles
from napari_qwenvl.train.recipe import Fields, clean_name, free_name, recipe, tile_of, write_training
from napari_qwenvl.train.sources import LayerSource, RunSource, layer_source, whole_slide
from workflows.review.decisions import Action, Change, Reviews, Verdict, object_name
from workflows.review.reviewed import reviewed_objects
from workflows.store.run_store import RunStore
from wsi import open_slide

TILE = TileSpec(size=224, mpp=0.25)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return [make_slide(folder, f"s{number}.svs", seed=number) for number in (4, 5, 6)]


@pytest.fixture
def runs(slides, tmp_path):
    return [make_run(slide, tmp_path / f"{slide.stem}.run") for slide in slides]


def decide(folder, verdicts=None, *, all_of=None, keep_open=0):
    """Decide about the objects of a run: by row, or all alike but the last `keep_open`."""
    with RunStore.open(folder) as store, Reviews.open(folder, who="ada") as reviews:
        found = reviewed_objects(store)
        changes = []
        for row in range(len(found) - keep_open):
            verdict = all_of or (verdicts or {}).get(row)
            if verdict is None:
                continue
            tile, item = int(found.key[row]) >> 20, int(found.key[row]) & 0xFFFFF
            box = tuple(found.box[row].tolist())
            name = object_name(store.manifest, tile, item)
            action = Action.ACCEPT if verdict is Verdict.ACCEPTED else Action.REJECT
            label = found.labels[found.label[row]]
            changes.append(Change(action, name, verdict, label, box, False, tile, item, label, box))
        reviews.decide(changes)
        return found


# ---------------------------------------------------------------------- layers

CASES = {
    "scale of the slide": ({"scale": (0.25, 0.25), "translate": (-0.125, -0.125)}, 1.0),
    "half its scale": ({"scale": (0.5, 0.5), "translate": (-0.125, -0.125)}, 2.0),
    "moved": ({"scale": (0.25, 0.25), "translate": (-0.125 + 10.0, -0.125 + 5.0)}, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_points_lie_where_they_were_drawn(name, slides):
    options, scale = CASES[name]
    moved = np.array([40.0, 20.0]) if name == "moved" else np.zeros(2)  # y, x in level-0 px
    corners = np.array([[10, 20], [10, 60], [40, 60], [40, 20]], float)
    with open_slide(slides[0]) as slide:
        layer = Shapes([corners], features={"label": ["vessel"]}, **options)
        found = layer_source(layer, slide, slides[0])
        ring = np.array(found.features[0]["geometry"]["coordinates"][0])
        expected = (corners * scale + moved)[:, ::-1]
        assert ring[:4] == pytest.approx(expected)
        assert found.features[0]["properties"]["classification"] == {"name": "vessel"}
        points = Points([[10, 20]], name="mitosis", **options)
        one = layer_source(points, slide, slides[0]).features[0]
        assert one["geometry"]["coordinates"] == pytest.approx(expected[0])
        assert one["properties"]["classification"] == {"name": "mitosis"}


def test_parts_of_a_labels_layer_are_objects_to_the_edge_of_their_px(slides):
    data = np.zeros((128, 160), np.uint8)
    data[10:20, 30:50] = 1
    data[60:70, 30:50] = 1  # the same class, another object
    data[100:102, 0:4] = 7
    with open_slide(slides[0]) as slide:
        frame = Frame.of(slide.mpp_xy)
        # Px of the layer are 4 px of level 0: its px 0 reaches from level-0 px 0 to 4.
        layer = Labels(data, name="glands", scale=(1.0, 1.0), translate=frame.to_world(2.0, 2.0))
        source = layer_source(layer, slide, slides[0])
        boxes = sorted(_box(feature) for feature in source.features)
        assert boxes == [(0, 400, 16, 408), (120, 40, 200, 80), (120, 240, 200, 280)]
        layer.features = {"index": [1, 7], "label": ["gland", "lumen"]}
        names = [
            each["properties"]["classification"]["name"] for each in layer_source(layer, slide, slides[0]).features
        ]
        assert sorted(names) == ["gland", "gland", "lumen"]


def _box(feature):
    ring = np.array(feature["geometry"]["coordinates"][0])
    return tuple(float(v) for v in (*ring.min(axis=0), *ring.max(axis=0)))


@pytest.mark.parametrize(
    ("layer", "areas", "message"),
    [
        (Shapes(name="empty"), False, "is empty"),
        (Points(name="none"), False, "is empty"),
        (Image(np.zeros((4, 4)), name="photo"), False, "no layer of labels"),
        (Labels(np.zeros((2, 4, 4), int), name="stack"), False, "not one plane"),
        (Shapes([[[0, 0], [9, 9]]], shape_type="line", name="line"), True, "is empty"),
        (Points([[3, 3]], name="dots"), True, "no area"),
    ],
)
def test_layers_that_cannot_be_learned_from(layer, areas, message, slides):
    with open_slide(slides[0]) as slide, pytest.raises(ValueError, match=message):
        layer_source(layer, slide, slides[0], areas=areas)


def drawn(slide_path, boxes, name="vessel", area=True):
    """Sources of boxes drawn on a slide, with the whole slide as labelled area."""
    with open_slide(slide_path) as slide:
        shapes = [[[y0, x0], [y0, x1], [y1, x1], [y1, x0]] for x0, y0, x1, y1 in boxes]
        layer = Shapes(shapes, features={"label": [name] * len(boxes)}, **Frame.of(slide.mpp_xy).corner_options())
        sources = [layer_source(layer, slide, slide_path)]
        return [*sources, whole_slide(slide, slide_path)] if area else sources


BOXES = [(40 + 60 * i, 50, 70 + 60 * i, 90) for i in range(6)]


def test_drawn_layers_of_three_slides_become_a_dataset_divided_by_slide(slides, tmp_path):
    sources = [each for slide in slides for each in drawn(slide, BOXES)]
    found = gather(sources, TILE, folder=tmp_path / "t")
    assert found.problems == ()
    assert found.counts == {"vessel": (12, 6)}
    assert sorted(row.part for row in found.rows) == [TRAIN, TRAIN, HELD_OUT]
    assert all(row.tiles for row in found.rows)
    assert {label.box for label in found.dataset.labels} == {tuple(map(float, box)) for box in BOXES}
    assert any("One class only" in words for words in found.warnings)
    kept = found.dataset.save(tmp_path / "t" / "dataset")
    assert Dataset.open(kept.folder).hash == found.dataset.hash
    assert all((tmp_path / "t" / "labels").iterdir())


# ---------------------------------------------------------------------- reviewed runs


def test_reviews_are_what_is_learned_and_open_tiles_are_not(runs):
    found = decide(runs[0], all_of=Verdict.ACCEPTED)
    part = decide(runs[1], all_of=Verdict.ACCEPTED, keep_open=1)
    whole = gather([RunSource(runs[0]), RunSource(runs[1])], TILE)
    assert {row.id: row.labels for row in whole.rows} == {"s4": len(found), "s5": len(part) - 1}
    tiles = {row.id: row.tiles for row in whole.rows}
    assert 0 < tiles["s5"] < tiles["s4"]


def test_tiles_without_objects_count_where_the_user_looked_at_them(slides, tmp_path):
    from panel_helpers import DETECT, Planted

    from workflows.run.slide import run_slide

    class Bare(Planted):
        def answer(self, pictures, request):
            return [
                replace(one, objects=()) if (self.asked + i) % 2 else one
                for i, one in enumerate(super().answer(pictures, request))
            ]

    run_slide(slides[0], DETECT, Bare(), tmp_path / "bare.run", mask="all", overview=False)
    decide(tmp_path / "bare.run", all_of=Verdict.ACCEPTED)
    source = [RunSource(tmp_path / "bare.run")]
    without, with_bare = (gather(source, TILE, searched=on).rows[0].tiles for on in (False, True))
    assert without < with_bare


def test_chosen_parts_are_kept_and_leaks_are_named(runs):
    for run in runs:
        decide(run, all_of=Verdict.ACCEPTED)
    sources = [RunSource(run) for run in runs]
    chosen = gather(sources, TILE, parts={"s4": HELD_OUT, "s5": TRAIN, "s6": TRAIN})
    assert {row.id: row.part for row in chosen.rows} == {"s4": HELD_OUT, "s5": TRAIN, "s6": TRAIN}
    assert chosen.problems == ()
    same = {"s4": "P1", "s5": "P1"}
    leak = gather(sources, TILE, parts={"s4": HELD_OUT, "s5": TRAIN, "s6": TRAIN}, patients=same)
    assert "patient P1" in leak.problems[0]
    divided = gather(sources, TILE, patients=same)
    assert divided.problems == ()
    parts = {row.id: row.part for row in divided.rows}
    assert parts["s4"] == parts["s5"]


def test_a_copy_of_a_slide_on_the_other_side_is_a_leak(slides, tmp_path):
    copy = tmp_path / "copy.svs"
    copy.write_bytes(slides[0].read_bytes())
    sources = drawn(slides[0], BOXES) + drawn(copy, BOXES)
    found = gather(sources, TILE, parts={"s4": TRAIN, "copy": HELD_OUT})
    assert "same pixels" in found.problems[0]


def test_what_keeps_training_from_starting_is_said(slides, runs, tmp_path):
    assert "Add labels" in gather([], TILE).problems[0]
    assert "has no reviews" in gather([RunSource(runs[0])], TILE).problems[0]
    assert "holds no run" in gather([RunSource(tmp_path)], TILE).problems[0]
    decide(runs[0], all_of=Verdict.REJECTED)
    assert "no label to learn from" in gather([RunSource(runs[0])], TILE).problems[0]
    few = gather(drawn(slides[0], BOXES[:1]), TILE)
    assert "1 training example," in few.problems[0]
    nowhere = gather(drawn(slides[0], BOXES, area=False), TILE)
    assert "No training tile" in nowhere.problems[0]
    assert any("held out" in words for words in nowhere.warnings)
    with open_slide(slides[0]) as slide:
        dots = layer_source(Points([[3.0, 3.0]] * 3, name="dots", scale=(0.25, 0.25)), slide, slides[0])
    assert any("some are points" in words for words in gather([*drawn(slides[0], BOXES), dots], TILE).problems)
    left = gather(drawn(slides[0], BOXES), TILE, left_out=("vessel",))
    assert "no label to learn from" in left.problems[0]


def test_a_moved_slide_is_named(runs, slides, tmp_path):
    source = LayerSource("drawn", tmp_path / "gone.svs", drawn(slides[0], BOXES)[0].features)
    assert "gone.svs" in gather([source], TILE).problems[0]


def test_labels_are_never_put_on_another_picture(slides, tmp_path):
    """The file was replaced since: each label would lie in the wrong place, so nothing is learned from it."""
    slide = tmp_path / "case.svs"
    slide.write_bytes(slides[0].read_bytes())
    run = make_run(slide, tmp_path / "case.run")
    decide(run, all_of=Verdict.ACCEPTED)
    layers = drawn(slide, BOXES)
    assert gather([RunSource(run)], TILE).dataset is not None
    slide.write_bytes(slides[1].read_bytes())
    for sources in ([RunSource(run)], layers):
        found = gather(sources, TILE)
        assert found.dataset is None
        assert "another picture" in found.problems[0]
    slide.unlink()
    assert "Bring the slide back" in gather([RunSource(run)], TILE).problems[0]


# ---------------------------------------------------------------------- recipe


def test_a_training_is_written_whole_or_not_at_all(slides, tmp_path):
    from finetune.config import FinetuneConfig
    from finetune.presets import SMALL

    fields = Fields("mine", "embedded", SMALL[0], steps=60, replay=0.2, limit=3.0, measured=5)
    with pytest.raises(ValueError, match="No training tile"):
        write_training(fields, drawn(slides[0], BOXES, area=False), TILE, {}, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    sources = [each for slide in slides for each in drawn(slide, BOXES)]
    tile, limits = tile_of(sources, "embedded")
    path = write_training(fields, sources, tile, limits, tmp_path / "mine")
    config = FinetuneConfig.load(path)
    assert (config.labels, config.task, config.name) == (("vessel",), "detect", "mine")
    assert (config.tile.size, config.tile.mpp, config.max_objects) == (256, 0.25, 40)
    assert (config.train.steps, config.train.soft_coordinates, config.lora.rank) == (60, 3.0, 32)
    assert (config.replay.share, config.replay.limit, config.replay.sources[0].kind) == (0.2, 3.0, "factory")
    assert (config.evaluate.every, config.evaluate.tiles) == (12, 5)
    assert Dataset.open(config.dataset).names == ("vessel",)
    large = gather(sources, TILE)
    other = recipe(replace(fields, base="Qwen/Qwen3-VL-8B-Instruct"), large, TILE, {}, tmp_path)
    assert (other.replay.sources[0].kind, other.train.soft_coordinates) == ("tiles", 0.0)


def test_tiles_are_cut_as_the_run_was_asked(runs):
    tile, limits = tile_of([RunSource(runs[0])], "embedded")
    assert (tile.size, tile.mpp, limits["max_new_tokens"]) == (224, 0.25, 512)


@pytest.mark.parametrize(
    ("words", "expected"), [("my adapter", "my-adapter"), ("../../etc", "etc"), ("  ", ""), ("é 2/3", "é-2-3")]
)
def test_names_are_folders_everywhere(words, expected, tmp_path):
    assert clean_name(words) == expected


def test_free_names_count_on(tmp_path):
    (tmp_path / "adapter-1").mkdir()
    assert free_name(tmp_path) == "adapter-2"
    assert free_name(tmp_path, "adapter-1") == "adapter-2"


# ---------------------------------------------------------------------- what to label next


def test_tiles_with_most_doubt_come_first_and_reviewed_ones_not_at_all(slides, tmp_path):
    run = make_run(slides[0], tmp_path / "run", fail=(1,))
    before = uncertain_tiles(run)
    assert before[0].status == "failed"  # nothing is known about it
    assert [each.doubt for each in before[1:]] == sorted((each.doubt for each in before[1:]), reverse=True)
    with RunStore.open(run) as store:
        found = reviewed_objects(store)
    for each in before:
        x0, y0, x1, y1 = each.rect
        centre = (found.box[:, :2] + found.box[:, 2:]) / 2
        inside = (centre[:, 0] >= x0) & (centre[:, 0] < x1) & (centre[:, 1] >= y0) & (centre[:, 1] < y1)
        assert each.objects == inside.sum()
        surer = [(found.score > score).mean() for score in found.score[inside]]
        assert each.doubt == pytest.approx(sum(surer))
    decide(run, all_of=Verdict.ACCEPTED)
    assert [each.status for each in uncertain_tiles(run)] == ["failed"]


def test_nothing_of_this_needs_torch():
    import subprocess

    code = (
        "import napari_qwenvl.train.gather, napari_qwenvl.train.recipe, napari_qwenvl.train.sources, sys\n"
        "import finetune.dataset.build, finetune.dataset.cutting, finetune.dataset.joining\n"
        "import finetune.presets, finetune.config\n"
        "import qwenvl.checkpoints.adapters.card\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
