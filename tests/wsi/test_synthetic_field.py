"""Fields: deterministic, labelled truly, and made of what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from wsi.synthetic import ARTEFACTS, CLASSES, REGIONS, sample_field
from wsi.synthetic.tissue.noise import textures


@pytest.mark.parametrize(("size", "mpp"), [(256, 0.25), (224, 0.5), (128, 1.0), (200, 0.31)])
def test_shapes_and_types(size: int, mpp: float) -> None:
    field = sample_field(11, size=size, mpp=mpp)
    assert field.image.shape == (size, size, 3)
    assert field.image.dtype == np.uint8
    assert field.boxes.shape == (len(field.labels), 4)
    assert field.boxes.dtype == np.float32
    assert len(field.polygons) == len(field.labels)
    assert set(field.labels) <= set(CLASSES)
    assert set(field.tissue_fractions) <= set(REGIONS)
    assert sum(field.tissue_fractions.values()) == pytest.approx(1.0)
    assert field.tissue == max(field.tissue_fractions, key=field.tissue_fractions.__getitem__)


def test_same_seed_same_field() -> None:
    first, second, other = sample_field(5), sample_field(5), sample_field(6)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.boxes, second.boxes)
    assert first.labels == second.labels
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_tight_around_polygons_and_inside_the_tile(seed: int) -> None:
    field = sample_field(seed)
    assert (field.boxes >= 0).all()
    assert (field.boxes <= 256).all()
    for box, polygon in zip(field.boxes, field.polygons, strict=True):
        np.testing.assert_allclose(box, [*polygon.min(axis=0), *polygon.max(axis=0)], atol=1e-4)
        assert (box[2:] - box[:2] > 1).all()


@pytest.mark.parametrize("limit", [0, 1, 6])
def test_max_nuclei_limits_what_is_drawn(limit: int) -> None:
    counts = [len(sample_field(s, max_nuclei=limit, tissue="lymphoid aggregate").labels) for s in range(12)]
    assert max(counts) <= limit
    if limit == 6:
        assert len(set(counts)) > 2


def test_nothing_is_drawn_without_a_label() -> None:
    """The same field with and without its nuclei differs around labelled nuclei only."""
    for seed in range(4):
        few = sample_field(seed, max_nuclei=4, tissue="tumor", artefacts=())
        none = sample_field(seed, max_nuclei=0, tissue="tumor", artefacts=())
        near = np.zeros((256, 256), bool)
        for x0, y0, x1, y1 in few.boxes:
            near[max(0, int(y0) - 24) : int(y1) + 25, max(0, int(x0) - 24) : int(x1) + 25] = True
        difference = np.abs(few.image.astype(int) - none.image).max(axis=2)
        assert not len(none.labels)
        assert difference[~near].max() <= 12  # JPEG blocks
        assert not len(few.boxes) or difference[near].max() > 40


@pytest.mark.parametrize("name", CLASSES)
def test_classes_restrict_the_labels(name: str) -> None:
    fields = [sample_field(s, classes=(name,), size=384) for s in range(6)]
    assert {label for f in fields for label in f.labels} == {name}


@pytest.mark.parametrize("name", REGIONS)
def test_tissue_is_what_was_asked_for(name: str) -> None:
    fractions = [sample_field(s, tissue=name).tissue_fractions.get(name, 0) for s in range(6)]
    assert min(fractions) > 0.4


@pytest.mark.parametrize("name", ARTEFACTS)
def test_artefacts_are_reported(name: str) -> None:
    assert all(name in sample_field(s, artefacts=(name,)).findings for s in range(4))
    assert name not in sample_field(1, artefacts=()).findings


def test_nuclei_are_darker_than_what_surrounds_them() -> None:
    """Planted nuclei are visible: less red light passes inside the outline than in the rest of the tile."""
    for seed in range(6):
        field = sample_field(seed, tissue="stroma", artefacts=())
        inside = np.zeros((256, 256), bool)
        for x0, y0, x1, y1 in field.boxes.astype(int):
            w, h = x1 - x0, y1 - y0
            inside[y0 + int(0.35 * h) : y1 - int(0.35 * h), x0 + int(0.35 * w) : x1 - int(0.35 * w)] = True
        red = field.image[..., 0].astype(float)
        if inside.any():
            assert red[inside].mean() < red[~inside].mean() - 25


def test_tumor_nuclei_are_larger_than_lymphocytes_and_spindles_longer_than_wide() -> None:
    field = sample_field(3, size=768, tissue="tumor", artefacts=())
    labels = np.array(field.labels)

    def area(polygon: np.ndarray) -> float:
        x, y = polygon.T * field.mpp
        return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))

    areas = np.array([area(p) for p in field.polygons])
    assert np.median(areas[labels == "tumor"]) > 1.5 * np.median(areas[labels == "lymphocyte"])
    lymphocyte = 2 * np.sqrt(np.median(areas[labels == "lymphocyte"]) / np.pi)
    assert 5.0 < lymphocyte < 8.0  # um across


@pytest.mark.parametrize("bad", [{"tissue": "bone"}, {"classes": ("neuron",)}, {"artefacts": ("bubble",)}])
def test_unknown_names_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="choose from"):
        sample_field(0, **bad)  # type: ignore[arg-type]


def test_textures_are_finite_and_periodic() -> None:
    for name, image in textures(0.25).images.items():
        assert np.isfinite(image).all(), name
        inner = np.abs(np.diff(image, axis=0)).mean()
        assert np.abs(image[0] - image[-1]).mean() < 2 * inner + 1e-6, name
