"""Pictures with planted cells, as a folder of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_cells(folder: Path, number: int, *, size: tuple[int, int] = (160, 128), seed: int = 0) -> Path:
    """A VOC folder of `number` pictures, each with three disks of class 'dark' or 'light' at known boxes."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    width, height = size
    for n in range(number):
        rng = np.random.default_rng([seed, n])
        picture = np.full((height, width, 3), 235, np.uint8) - rng.integers(0, 9, (height, width, 3), np.uint8)
        objects = []
        for k, (cx, cy) in enumerate(((35, 35), (110, 45), (70, 95))):
            radius = int(rng.integers(10, 17))
            dark = (n + k) % 2 == 0
            cv2.circle(picture, (cx, cy), radius, (120, 40, 90) if dark else (230, 150, 180), -1)
            name = "dark" if dark else "light"
            corners = (cx - radius + 1, cy - radius + 1, cx + radius + 1, cy + radius + 1)
            tags = "".join(
                f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            )
            objects.append(f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>")
        cv2.imwrite(str(folder / "images" / f"p{n:02}.png"), picture[..., ::-1])
        (folder / "annotations" / f"p{n:02}.xml").write_text(
            f"<annotation><filename>p{n:02}.png</filename><size><width>{width}</width><height>{height}</height></size>"
            + "".join(objects)
            + "</annotation>"
        )
    return folder
