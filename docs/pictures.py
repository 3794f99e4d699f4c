"""Make the pictures of README and docs: `python docs/pictures.py` (a few minutes; needs the package installed)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent / "images"


def shrink(source: Path, name: str, side: int = 1400) -> None:
    """Save a picture for the docs, at most `side` px."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    target = HERE / name
    small.save(target, quality=88)
    print(target, small.size)


def detail(slide: Path, run: Path, name: str, side: int = 768) -> None:
    """A part of a slide at full resolution, with the run's boxes."""
    from PIL import ImageDraw

    from workflows.compare import run_boxes
    from wsi import open_slide

    boxes, _ = run_boxes(run)
    with open_slide(slide) as opened:
        x0, y0 = opened.width // 2 - side // 2, opened.height // 3 - side // 2
        picture = Image.fromarray(opened.read(x0, y0, side, side))
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in boxes - [x0, y0, x0, y0]:
        if right > 0 and bottom > 0 and left < side and top < side:
            draw.rectangle((left, top, right, bottom), outline=(255, 220, 0), width=2)
    picture.save(HERE / name, quality=88)


def fields(name: str) -> None:
    """A sheet of tiles from the factory."""
    import numpy as np

    from wsi.synthetic import sample_field

    tiles = [sample_field(seed, size=256, mpp=0.25).image for seed in range(10)]
    sheet = np.vstack([np.hstack(tiles[:5]), np.hstack(tiles[5:])])
    Image.fromarray(sheet).save(HERE / name, quality=88)


def main() -> None:
    """Run the demonstration in a temporary folder and keep its pictures."""
    HERE.mkdir(exist_ok=True)
    fields("synthetic.jpg")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        subprocess.run([sys.executable, "-m", "qwenvl", "demo", "-o", str(out)], check=True)
        shrink(out / "nuclei" / "overview.png", "demo-overview.jpg")
        shrink(out / "tumor" / "overview.png", "demo-tumor.jpg", 900)
        detail(next(out.glob("*.svs")), out / "nuclei", "demo-detail.jpg")


if __name__ == "__main__":
    main()
