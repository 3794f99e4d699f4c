"""Measured cells: the same numbers as scikit-image, planted truth, seams, scale, stain, boxes alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile
from cell_slides import DARK, GROUND, MPP, PALE, SIDE, draw, write_slide

from workflows.errors import CellsError
from workflows.science.cells import STAINS, LabelImage, Stains, cells_of_labels
from workflows.science.cells.measure.measuring import measure_boxes, measure_labels
from workflows.science.cells.measure.morphology import DENSEST, LEVELS, SHAPE, shapes, stain_and_texture, stain_names


@pytest.fixture(scope="module")
def drawn():
    return draw()


@pytest.fixture
def slide(drawn, tmp_path):
    with write_slide(tmp_path, drawn[0]) as opened:
        yield opened


def _blobs(seed: int, count: int = 40) -> np.ndarray:
    """Ragged, touching, holey and one-px-wide shapes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((300, 400), np.int32)
    for number in range(1, count + 1):
        centre = rng.integers(20, (380, 280))
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        radius = rng.uniform(2, 16, 12)
        points = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1) + centre
        cv2.fillPoly(labels, [points.round().astype(np.int32)], number)
    labels[5, 5:30] = count + 1
    present = np.unique(labels)
    return np.searchsorted(present, labels).astype(np.int32)


@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_of_regionprops(seed):
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is the peer")
    labels = _blobs(seed)
    peers = {
        "area": "area",
        "equivalent_diameter": "equivalent_diameter_area",
        "perimeter": "perimeter",
        "major_axis": "axis_major_length",
        "minor_axis": "axis_minor_length",
        "eccentricity": "eccentricity",
    }
    ours, centres = shapes(labels, int(labels.max()))
    theirs = measure.regionprops_table(labels, properties=(*peers.values(), "centroid"))
    for name, peer in peers.items():
        # Of a line, the eccentricity is 1 whatever its second axis' rounding.
        np.testing.assert_allclose(ours[:, SHAPE.index(name)], theirs[peer], atol=2e-6, err_msg=name)
    np.testing.assert_allclose(centres, np.stack([theirs["centroid-1"], theirs["centroid-0"]], 1), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_solidity_is_the_exact_hull_of_the_pixels_sides(seed):
    import shapely

    labels = _blobs(seed)
    ours, _ = shapes(labels, int(labels.max()))
    for number in range(1, int(labels.max()) + 1):
        y, x = np.nonzero(labels == number)
        steps = ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
        sides = np.concatenate([np.stack([x + dx, y + dy], 1) for dx, dy in steps])
        hull = shapely.MultiPoint(sides).convex_hull.area
        assert ours[number - 1, SHAPE.index("solidity")] == pytest.approx(min(1, len(x) / hull))


def test_texture_is_that_of_the_co_occurrences():
    feature = pytest.importorskip("skimage.feature", reason="scikit-image is the peer")
    rng = np.random.default_rng(0)
    picture = rng.integers(40, 255, (40, 50, 3), dtype=np.uint8)
    labels = np.zeros((40, 50), np.int32)
    labels[5:35, 8:41] = 1
    found = dict(zip(stain_names(STAINS["he"]), stain_and_texture(labels, 1, picture, STAINS["he"])[0], strict=True))
    dye = STAINS["he"].unmix(picture)[0][5:35, 8:41]
    level = np.minimum(dye * (LEVELS / DENSEST), LEVELS - 1).astype(np.uint8)
    matrix = feature.graycomatrix(level, [1], [0, np.pi / 2], levels=LEVELS, symmetric=True).sum(3, keepdims=True)
    matrix = matrix / matrix.sum()
    for name in ("contrast", "homogeneity"):
        assert found[f"texture_{name}"] == pytest.approx(float(feature.graycoprops(matrix, name)[0, 0]), rel=1e-6)
    assert found["hematoxylin_mean"] == pytest.approx(float(dye.mean()), rel=1e-5)
    assert found["hematoxylin_sd"] == pytest.approx(float(dye.std()), rel=1e-3)


@pytest.mark.parametrize("name", ["he", "hdab"])
def test_planted_dyes_come_apart(name):
    stains = STAINS[name]
    amounts = np.array([[0.8, 0.1], [0.2, 0.6], [0.0, 0.0]])
    colours = np.stack([np.array(v) / np.linalg.norm(v) for v in stains.vectors])
    pixels = np.round(255 * 10 ** -(amounts @ colours)).astype(np.uint8)
    np.testing.assert_allclose(stains.unmix(pixels).T, amounts, atol=0.02)


def test_planted_cells_are_measured_in_micrometres(drawn, slide):
    _, labels, kinds = drawn
    table = cells_of_labels(slide, LabelImage(slide.path, labels, 1.0))
    assert len(table) == labels.max()
    area = table.values[:, table.names.index("area_um2")]
    np.testing.assert_allclose(area, np.bincount(labels.ravel())[1:] * MPP**2, rtol=1e-6)
    long = table.values[:, table.names.index("major_axis_um")]
    np.testing.assert_allclose(long[kinds[1:] == 2], 45 * MPP, atol=1)
    y, x = np.nonzero(labels == 7)
    np.testing.assert_allclose(table.centre0[6], [x.mean() + 0.5, y.mean() + 0.5])
    dark, pale = (STAINS["he"].unmix(np.array([colour], np.uint8))[0, 0] for colour in (DARK, PALE))
    stain = table.values[:, table.names.index("hematoxylin_mean")]
    np.testing.assert_allclose(stain[kinds[1:] == 1], dark, atol=0.03)
    np.testing.assert_allclose(stain[kinds[1:] == 2], pale, atol=0.03)


def test_tiles_do_not_show(drawn, slide, monkeypatch):
    """Cells across a border of tiles are measured whole and once, whatever the tiles' side."""
    image = LabelImage(slide.path, drawn[1], 1.0)
    ids, boxes, whole = measure_labels(slide, image, STAINS["he"])
    monkeypatch.setattr("workflows.science.cells.measure.measuring.TILE", 97)
    again, boxes_again, parts = measure_labels(slide, image, STAINS["he"])
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_array_equal(boxes, boxes_again)
    np.testing.assert_allclose(whole.values, parts.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole.centre0, parts.centre0)


def test_blocks_do_not_show(drawn, slide, monkeypatch):
    image = LabelImage(slide.path, drawn[1], 1.0)
    ids, boxes = image.boxes()
    monkeypatch.setattr("workflows.science.cells.measure.label_image._BLOCK", 53)
    again, boxes_again = image.boxes()
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_array_equal(boxes, boxes_again)
    y, x = np.nonzero(drawn[1] == 7)
    assert boxes[6].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_label_image_of_half_the_size(drawn, slide):
    """Lengths and places are those of the slide, not of the label image."""
    half = cv2.resize(drawn[1], (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_NEAREST)
    tifffile.imwrite(slide.path.with_name("half.tif"), half.astype(np.uint16))
    with pytest.raises(CellsError, match="--label-scale"):
        LabelImage.open(slide.path.with_name("half.tif"), slide)
    with pytest.raises(CellsError, match="at 3 level-0 px"):
        LabelImage.open(slide.path.with_name("half.tif"), slide, 3)
    image = LabelImage.open(slide.path.with_name("half.tif"), slide, 2)
    coarse, fine = (cells_of_labels(slide, image), cells_of_labels(slide, LabelImage(slide.path, drawn[1], 1.0)))
    area = fine.names.index("area_um2")
    np.testing.assert_allclose(np.median(coarse.values[:, area] / fine.values[:, area]), 1, atol=0.02)
    assert np.abs(coarse.centre0 - fine.centre0).max() < 2.5


def test_labels_of_another_slide_show(drawn, slide):
    """Planted fault: shifted by half a pitch, the labels lie between the cells."""
    right = cells_of_labels(slide, LabelImage(slide.path, drawn[1], 1.0))
    wrong = cells_of_labels(slide, LabelImage(slide.path, np.roll(drawn[1], (35, 35), (0, 1)), 1.0))
    assert right.facts["darker_than_around"] > 0.3
    assert wrong.facts["darker_than_around"] < 0


def test_without_a_scale_lengths_are_in_px_and_sizes_relative(drawn, tmp_path):
    with write_slide(tmp_path, drawn[0], mpp=None) as slide:
        table = cells_of_labels(slide, LabelImage(slide.path, drawn[1], 1.0))
    assert "area_px2" in table.names
    assert not any(name.endswith(("_um", "_um2")) for name in table.names)
    assert "mpp" not in table.facts
    assert "for this image" in table.sentences[0]
    assert "px across" in table.sentences[0]
    assert table.vocabulary["size"].relative


def test_boxes_alone_are_outlined_by_threshold(drawn, slide):
    _, labels, kinds = drawn
    ids, boxes = LabelImage(slide.path, labels, 1.0).boxes()
    wide = boxes + np.array([-4, -4, 4, 4])
    empty = np.array([[100.0, 100, 101, 130], [5.0, 5, 25, 25]])  # a line, and bare ground
    found = measure_boxes(slide, np.concatenate([wide, empty]).astype(float), STAINS["he"])
    assert found.row.tolist() == list(range(len(ids)))
    assert found.without.tolist() == [len(ids), len(ids) + 1]
    truth = np.bincount(labels.ravel())[1:] * MPP**2
    error = np.abs(found.values[:, found.names.index("area_um2")] - truth) / truth
    assert np.median(error) < 0.05
    assert len(kinds) == len(ids) + 1


def _save(path, array, kind):
    if kind == "tif":
        tifffile.imwrite(path.with_suffix(".tif"), array)
        return path.with_suffix(".tif")
    if kind == "png":
        cv2.imwrite(str(path.with_suffix(".png")), array)
        return path.with_suffix(".png")
    import zarr

    root = zarr.create_group(path.with_suffix(".zarr"), zarr_format=3)
    label = root.create_group("labels").create_group("nuclei")
    label.attrs["ome"] = {"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}]}
    label.create_array("0", data=array, chunks=(256, 256))
    return path.with_suffix(".zarr")


@pytest.mark.parametrize("kind", ["tif", "png", "zarr"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_label_images_of_every_kind(drawn, slide, tmp_path, kind, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr("workflows.science.cells.measure.label_image._IN_MEMORY", 0)
    path = _save(tmp_path / "labels", drawn[1].astype(np.uint16), kind)
    image = LabelImage.open(path, slide)
    assert image.scale0 == 1
    np.testing.assert_array_equal(image.read(100, 200, 300, 50), drawn[1][200:250, 100:400])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels.astype(np.float32), "whole numbers"),
        (lambda labels: labels[:, : SIDE // 2], "do not cover the same field"),
        (lambda labels: np.stack([labels, labels]), "one plane"),
    ],
)
def test_label_images_that_are_none(drawn, slide, tmp_path, change, message):
    path = _save(tmp_path / "labels", change(drawn[1]), "tif")
    with pytest.raises(CellsError, match=message):
        LabelImage.open(path, slide)


def test_ids_that_start_again_in_every_tile_are_refused(slide):
    """The planted fault of tiled segmentation: label 1 in two corners is no cell of 3,000 px."""
    labels = np.zeros((3000, 3000), np.int32)
    labels[5:20, 5:20] = labels[2980:2995, 2980:2995] = 1
    with pytest.raises(CellsError, match="ids are used again"):
        LabelImage(slide.path, labels, 1.0).boxes()
    labels[:] = 0
    labels[5, 5] = -3
    with pytest.raises(CellsError, match="negative"):
        LabelImage(slide.path, labels, 1.0).boxes()
    labels[:] = 0
    with pytest.raises(CellsError, match="no cell"):
        cells_of_labels(slide, LabelImage(slide.path, labels[:SIDE, :SIDE], 1.0))


def test_darkness_alone():
    gray: Stains = STAINS["gray"]
    assert stain_names(gray)[:2] == ("darkness_mean", "darkness_sd")
    np.testing.assert_allclose(gray.unmix(np.full((1, 1, 3), 26, np.uint8))[0], 0.99, atol=0.01)
    assert np.array(GROUND).mean() > 200
