"""The pictures of docs/science/instruments.md.

    python docs/science_pictures_instruments.py [--adapter FOLDER]

Without an adapter (of benchmarks/science_instruments.py) only the factory's own picture is made.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.instruments import Factory, Scene, make_set

IMAGES = Path(__file__).parent / "images"
KINDS = ("seven-segment", "dot-matrix", "gauge", "plate", "table")
SEEDS = (2, 5, 4, 1, 3)


def with_boxes(scene: Scene) -> NDArray[np.uint8]:
    """A photograph with its true boxes: of characters, and of values without them."""
    pixels = scene.pixels.copy()
    for one in scene.shown:
        for box in [character.box for character in one.characters] or [one.box]:
            x0, y0, x1, y1 = (round(v) for v in box)
            cv2.rectangle(pixels, (x0, y0), (x1, y1), (255, 0, 220), 1)
    return pixels


def kinds() -> Path:
    """A photograph of every kind, and below it the same with its truth."""
    scenes = [
        Factory((kind,), empty_share=0.0, unit_share=1.0).photograph(seed)
        for kind, seed in zip(KINDS, SEEDS, strict=True)
    ]
    rows = [np.hstack([scene.pixels for scene in scenes]), np.hstack([with_boxes(scene) for scene in scenes])]
    path = IMAGES / "instruments-kinds.png"
    Image.fromarray(np.vstack(rows)).convert("P", palette=Image.Palette.ADAPTIVE, colors=200).save(path, optimize=True)
    return path


def readings(adapter: Path, instrument: int = 5) -> Path:
    """Four photographs of one panel with what was read off them."""
    from qwenvl.engines.local import LocalEngine
    from recipes.instruments.characters import CHARACTERS
    from workflows.science.instruments import Asking, Sheet, read_photographs
    from workflows.science.instruments.photograph import load_photograph
    from workflows.science.instruments.picture import draw_report

    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        make_set(made, Factory(("seven-segment",), instrument=instrument, empty_share=0.0), 4, 0)
        engine = LocalEngine.load("embedded", adapter=adapter)
        units = {"humidity": "%", "temperature": "°C", "acidity": "pH"}
        sheet = Sheet.of({"fields": {name: {"unit": unit} for name, unit in units.items()}})
        asking = Asking(sheet, CHARACTERS, max_new_tokens=400)
        report = read_photographs([made / "photographs"], asking, engine, Path(temporary) / "out").report
        drawn = [draw_report(one, load_photograph(Path(one.path))) for one in report.photographs]
    path = IMAGES / "instruments-read.png"
    picture = Image.fromarray(np.vstack([np.hstack(drawn[:2]), np.hstack(drawn[2:])]))
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=200).save(path, optimize=True)
    return path


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path)
    arguments = parser.parse_args()
    print(kinds())
    if arguments.adapter is not None:
        print(readings(arguments.adapter))


if __name__ == "__main__":
    main()
