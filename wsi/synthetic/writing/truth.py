"""The planted truth beside a slide: QuPath GeoJSON, written as a stream, and a map of the regions."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsi.synthetic.scene import Scene
from wsi.synthetic.tissue.layout import ARTEFACTS, BACKGROUND, REGIONS
from wsi.synthetic.tissue.nuclei import CLASSES, Nuclei

COLORS: dict[str, tuple[int, int, int]] = {
    "tumor": (200, 30, 40),
    "lymphocyte": (40, 70, 220),
    "stromal": (40, 150, 70),
    "epithelial": (235, 160, 30),
    "mitosis": (20, 20, 20),
    "stroma": (230, 150, 190),
    "lymphoid aggregate": (70, 70, 200),
    "necrosis": (120, 110, 70),
    "fat": (245, 215, 90),
    "background": (255, 255, 255),
    "fold": (120, 0, 120),
    "pen mark": (0, 120, 140),
    "blur": (140, 140, 140),
}
"""Colour of every nucleus, region and artefact class in the exports."""
REGION_DOWNSAMPLE = 32
_NAMESPACE = uuid.UUID("6f2e2b1c-7f5e-5d0a-9a63-3a1d0f6d9c11")


def _head(kind: str, name: str) -> str:
    """Everything of a feature between its id and its coordinates."""
    properties = json.dumps(
        {"objectType": kind, "classification": {"name": name, "color": list(COLORS[name])}, "isLocked": True}
    )
    return f'","properties":{properties},"geometry":{{"type":"Polygon","coordinates":'


class TruthWriter:
    """Streams features into a QuPath GeoJSON file.

    The form follows QuPath's `QuPathTypeAdapters`: `objectType` inside `properties`, a classification with
    name and colour, ids that parse as UUID, level-0 pixel coordinates. Ids follow from the scene's seed.
    """

    def __init__(self, stream: IO[str], seed: int, mpp: float) -> None:
        self._stream, self._seed, self._mpp = stream, seed, mpp
        self._first = True
        self._heads = [_head("detection", name) for name in CLASSES]
        self.count = 0
        stream.write('{"type":"FeatureCollection","features":[')

    def nuclei(self, nuclei: Nuclei) -> None:
        """Append nuclei as detections."""
        if not len(nuclei):
            return
        points = nuclei.polygon_um / self._mpp
        points = np.concatenate([points, points[:, :1]], axis=1)
        form = "[[" + ",".join(["[%.1f,%.1f]"] * points.shape[1]) + "]]}"
        flat = points.reshape(len(points), -1).tolist()
        for kind, (cx, cy), row in zip(nuclei.kind.tolist(), nuclei.cell.tolist(), flat, strict=True):
            self._put(f"n/{cx}/{cy}", self._heads[kind] + form % tuple(row))

    def region(self, name: str, rings: list[NDArray[np.float64]]) -> None:
        """Append one polygon (outer ring first, then holes, in level-0 px) as an annotation."""
        closed = [np.concatenate([ring, ring[:1]]).round(1).tolist() for ring in rings]
        self._put(f"r/{self.count}", _head("annotation", name) + json.dumps(closed) + "}")

    def close(self) -> None:
        self._stream.write("\n]}\n")

    def _put(self, key: str, rest: str) -> None:
        name = uuid.uuid5(_NAMESPACE, f"{self._seed}/{key}")
        self._stream.write(("\n" if self._first else ",\n") + f'{{"type":"Feature","id":"{name}{rest}}}')
        self._first = False
        self.count += 1


def region_polygons(mask: NDArray[np.bool_], scale: float) -> Iterator[list[NDArray[np.float64]]]:
    """Polygons of a mask, each as its outer ring and its holes, in px of a grid `scale` times finer."""
    padded = np.pad(mask, 1).astype(np.uint8)
    # Contours run through pixel centres: doubled, that is a quarter of a pixel inside the mask.
    double = padded.repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return
    rings = [((c.reshape(-1, 2) + 0.5) / 2 - 1) * scale for c in contours]
    for k, (_, _, child, parent) in enumerate(tree[0].tolist()):
        if parent >= 0 or len(rings[k]) < 4:
            continue
        polygon = [rings[k]]
        while child >= 0:
            if len(rings[child]) >= 4:
                polygon.append(rings[child])
            child = tree[0][child][0]
        yield from _valid(polygon, scale / 4)


def _valid(rings: list[NDArray[np.float64]], grow: float) -> Iterator[list[NDArray[np.float64]]]:
    """The polygon without rings that touch themselves, which QuPath refuses, and grown to the pixels' edges."""
    shape = shapely.make_valid(shapely.Polygon(rings[0], rings[1:]), method="structure", keep_collapsed=False)
    shape = shape.buffer(grow, join_style="mitre", mitre_limit=2)
    for part in shapely.get_parts(shape):
        if part.geom_type == "Polygon" and part.area > 0:
            yield [np.asarray(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)]


def write_regions(scene: Scene, mpp: float, writer: TruthWriter, picture: Path) -> None:
    """Annotations of all regions and artefacts, and the region map as an indexed PNG.

    The PNG holds the position in `REGIONS`; one of its pixels is `REGION_DOWNSAMPLE` level-0 pixels.
    """
    index = scene.region_map(REGION_DOWNSAMPLE, mpp)
    if not index.size:
        return
    for region, name in enumerate(REGIONS):
        if region != BACKGROUND:
            for rings in region_polygons(index == region, REGION_DOWNSAMPLE):
                writer.region(name, rings)
    for name in ARTEFACTS:
        mask = scene.artefact_map(name, REGION_DOWNSAMPLE, mpp) > 0.4
        for rings in region_polygons(mask, REGION_DOWNSAMPLE):
            writer.region(name, rings)
    image = Image.fromarray(index, mode="P")
    image.putpalette([value for name in REGIONS for value in COLORS[name]])
    image.save(picture, format="PNG")
