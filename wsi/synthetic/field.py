"""Labelled tiles: a window of a world that is made for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.synthetic.plan import plan_field
from wsi.synthetic.scene import World, share_inside
from wsi.synthetic.tissue.layout import (
    ARTEFACTS,
    FAT,
    LYMPHOID,
    NECROSIS,
    REGIONS,
    STROMA,
    TUMOR,
    SceneWindow,
    SectionLayout,
)
from wsi.synthetic.tissue.nuclei import CLASSES, Nuclei
from wsi.synthetic.tissue.stain import RgbImage, Scanner, jpeg_roundtrip
from wsi.synthetic.tissue.tissue import Ground

_PRIMARY = np.array([0.36, 0.26, 0.13, 0.09, 0.09, 0.07])
_HOMES = {
    "tumor": (TUMOR,),
    "mitosis": (TUMOR,),
    "lymphocyte": (LYMPHOID, STROMA, TUMOR),
    "stromal": (STROMA, FAT),
    "epithelial": (STROMA,),
}
_LEAST_INSIDE = 0.4
_LEAST_LIGHT = 0.3
_ARTEFACT_ODDS = {"fold": 0.035, "pen mark": 0.04, "blur": 0.06}


@dataclass(frozen=True)
class Field:
    """One labelled tile.

    Attributes
    ----------
    image : uint8 (size, size, 3)
        RGB.
    boxes : float32 (n, 4)
        x_min, y_min, x_max, y_max of every nucleus in tile px.
    labels : tuple of n str
        Nucleus classes.
    polygons : tuple of n float32 (k, 2)
        Outlines in tile px, cut at the border.
    tissue : str
        The region class with the largest share.
    tissue_fractions : dict of str to float
        Share of every region class present; they sum to one.
    regions : list of (str, tuple of 4 float)
        Label and box of every finding that occupies a place.
    findings : frozenset of str
        Words that are true of the tile: region classes of at least 5 %, artefacts, 'mitosis', 'gland'.
    mpp : float
        um per px.
    """

    image: RgbImage
    boxes: NDArray[np.float32]
    labels: tuple[str, ...]
    polygons: tuple[NDArray[np.float32], ...]
    tissue: str
    tissue_fractions: dict[str, float]
    regions: list[tuple[str, tuple[float, float, float, float]]]
    findings: frozenset[str]
    mpp: float


def sample_field(
    seed: int,
    *,
    size: int = 256,
    mpp: float = 0.25,
    tissue: str | None = None,
    max_nuclei: int | None = None,
    classes: tuple[str, ...] | None = None,
    artefacts: tuple[str, ...] | None = None,
) -> Field:
    """Draw one labelled tile of a random section on a random scanner.

    Parameters
    ----------
    seed : int
        The same seed and settings give the same field.
    size : int
        Side in px.
    mpp : float
        um per px.
    tissue : str, optional
        One of `REGIONS`: what the tile mostly shows. Random when left out.
    max_nuclei : int, optional
        Draw no more nuclei than this (a random number up to it). Whatever is drawn is labelled: nuclei cut by
        the border to less than 40 % are then left out of the picture too.
    classes : tuple of str, optional
        Draw nuclei of these classes only.
    artefacts : tuple of str, optional
        Which of `ARTEFACTS` to put in. Random and rare when left out.

    Raises
    ------
    ValueError
        For an unknown tissue, class or artefact.
    """
    _check(tissue, REGIONS, "tissue")
    for name in classes or ():
        _check(name, CLASSES, "nucleus class")
    for name in artefacts or ():
        _check(name, ARTEFACTS, "artefact")
    rng = np.random.default_rng([seed & 0xFFFFFFFF, size, round(mpp * 1000)])
    primary = REGIONS.index(tissue) if tissue else _primary(rng, classes)
    if artefacts is None:
        artefacts = tuple(name for name, odds in _ARTEFACT_ODDS.items() if rng.random() < odds)
    layout = plan_field(rng, size * mpp, primary, tissue is not None, classes, artefacts)
    world = World(layout, int(rng.integers(1 << 62)), Scanner.random(rng))
    window = SceneWindow(0, 0, size, size, mpp)
    pick = np.random.default_rng(int(rng.integers(1 << 62)))  # its own, so that limits change nothing else
    nuclei = _not_under_ink(world.nuclei_around(window), layout)
    nuclei, labelled = _choose_nuclei(nuclei, window, pick, max_nuclei, classes)
    image, base, margin = world.paint(window, nuclei)
    if rng.random() < 0.75:
        image = jpeg_roundtrip(image, int(rng.integers(55, 96)))
    shown = nuclei[labelled]
    return _describe(image, base, margin, shown, layout, window)


def _check(name: str | None, known: tuple[str, ...], what: str) -> None:
    if name is not None and name not in known:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(known)}")


def _primary(rng: np.random.Generator, classes: tuple[str, ...] | None) -> int:
    if classes:
        homes = _HOMES[classes[int(rng.integers(len(classes)))]]
        return homes[int(rng.integers(len(homes)))]
    return int(rng.choice(6, p=_PRIMARY / _PRIMARY.sum()))


def _not_under_ink(nuclei: Nuclei, layout: SectionLayout) -> Nuclei:
    """Without the nuclei that nobody could see through a pen mark."""
    ink = layout.artefact_at("pen mark", nuclei.centre_um[:, 0], nuclei.centre_um[:, 1])
    light = 1 - ink * (1 - sum(layout.pen_rgb) / 3)
    return nuclei[light > _LEAST_LIGHT]


def _choose_nuclei(
    nuclei: Nuclei,
    window: SceneWindow,
    rng: np.random.Generator,
    max_nuclei: int | None,
    classes: tuple[str, ...] | None,
) -> tuple[Nuclei, NDArray[np.bool_]]:
    """Nuclei to draw, and which of them are labelled."""
    if classes is not None:
        nuclei = nuclei[np.isin(nuclei.kind, [CLASSES.index(name) for name in classes])]
    x0, y0, _, _ = window.um
    polygons = (nuclei.polygon_um - (x0, y0)) / window.mpp
    labelled = share_inside(polygons, window.width, window.height) >= _LEAST_INSIDE
    if max_nuclei is None:
        return nuclei, labelled
    rows = np.flatnonzero(labelled)
    if len(rows) > max_nuclei:
        keep = int(rng.integers(0 if rng.random() < 0.1 else 1, max_nuclei + 1)) if max_nuclei else 0
        rows = np.sort(rng.choice(rows, keep, replace=False))
    return nuclei[rows], np.ones(len(rows), bool)


def _describe(
    image: RgbImage, base: Ground, margin: int, nuclei: Nuclei, layout: SectionLayout, window: SceneWindow
) -> Field:
    size, mpp = window.width, window.mpp
    polygons = np.clip(nuclei.polygon_um / mpp, 0, size).astype(np.float32)
    boxes = np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1).reshape(-1, 4)
    inner = slice(margin, -margin)
    weights = base.weights[:, inner, inner]
    share = weights.mean(axis=(1, 2))
    fractions = {REGIONS[r]: float(s) for r, s in zip(base.regions, share, strict=True) if s > 0.002}
    total = sum(fractions.values())
    fractions = {name: s / total for name, s in fractions.items()}
    regions = []
    findings = {name for name, s in fractions.items() if s >= 0.05}
    for k, r in enumerate(base.regions):
        if r in (LYMPHOID, NECROSIS, TUMOR, FAT) and REGIONS[r] in findings:
            regions.append((REGIONS[r], _box(weights[k] > 0.5)))
    for name, strength in base.artefacts.items():
        mask = strength[inner, inner] > 0.4
        if mask.mean() > 0.02:
            findings.add(name)
            regions.append((name, _box(mask)))
    x0, y0, x1, y1 = window.um
    if any(x0 < x < x1 and y0 < y < y1 for x, y in layout.glands[:, :2]):
        findings.add("gland")
    if "mitosis" in nuclei.labels:
        findings.add("mitosis")
    return Field(
        image=image,
        boxes=boxes,
        labels=nuclei.labels,
        polygons=tuple(polygons),
        tissue=max(fractions, key=lambda name: fractions[name]),
        tissue_fractions=fractions,
        regions=[(name, box) for name, box in regions if box is not None],
        findings=frozenset(findings),
        mpp=mpp,
    )


def _box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
