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

    from workflows.review.compare import run_boxes
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


def said_twice(name: str, seeds: tuple[int, ...] = (820063, 720038, 820047, 820059), zoom: int = 2) -> None:
    """Tiles as the model writes them (above) and with what it says twice taken back (below). Copies are red."""
    import re

    import numpy as np
    from PIL import ImageDraw

    import qwenvl.constraints.box_constraint as rules
    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Request, Task
    from wsi.synthetic import sample_field

    tiles = [sample_field(seed, size=256, max_nuclei=20).image for seed in seeds]
    engine = LocalEngine.load("embedded")
    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=256, mpp=0.25)
    rows, same = [], rules.SAME
    for rules.SAME in (2.0, same):
        row = []
        for tile, answer in zip(tiles, engine.answer(tiles, request), strict=True):
            picture = Image.fromarray(tile).resize((256 * zoom, 256 * zoom), Image.Resampling.BICUBIC)
            draw, earlier = ImageDraw.Draw(picture), []
            for numbers in re.findall(r"\[(\d+, \d+, \d+, \d+)\]", answer.raw):
                box = np.array([float(number) for number in numbers.split(",")]) * 256 * zoom / 1000
                again = any(np.abs(box - other).max() < 0.02 * 256 * zoom for other in earlier)
                draw.rectangle(tuple(box), outline=(220, 0, 0) if again else (0, 90, 60), width=3)
                earlier.append(box)
            row.append(np.asarray(picture))
        rows.append(np.hstack(row))
    Image.fromarray(np.vstack(rows)).save(HERE / name, quality=88)


def how_sure(name: str, seeds: tuple[int, ...] = (830088, 830019, 830055, 830003), zoom: int = 2) -> None:
    """Boxes from red (score 0.2 and less) to green (0.9 and more); crossed out where there is no such nucleus."""
    import numpy as np
    from PIL import ImageDraw

    from qwenvl.engines.local import LocalEngine
    from qwenvl.request import Request, Task
    from recipes.pretrain.metrics import match
    from wsi.synthetic import sample_field

    fields = [sample_field(seed, size=256, max_nuclei=20) for seed in seeds]
    request = Request(task=Task.DETECT, labels=("nucleus",), tile_size=256, mpp=0.25)
    answers = LocalEngine.load("embedded").answer([field.image for field in fields], request)
    row = []
    for field, answer in zip(fields, answers, strict=True):
        picture = Image.fromarray(field.image).resize((256 * zoom, 256 * zoom), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        boxes = np.array([item.box for item in answer.objects], float).reshape(-1, 4)
        right = {at for at, _ in match(boxes, np.asarray(field.boxes, float).reshape(-1, 4))}
        for at, item in enumerate(answer.objects):
            sure = min(max(((item.score or 0.0) - 0.2) / 0.7, 0.0), 1.0)
            colour = (round(230 * (1 - sure)), round(130 * sure), 30)
            x0, y0, x1, y1 = boxes[at] * zoom
            draw.rectangle((x0, y0, x1, y1), outline=colour, width=3)
            if at not in right:
                draw.line((x0, y0, x1, y1), fill=colour, width=2)
                draw.line((x0, y1, x1, y0), fill=colour, width=2)
        row.append(np.asarray(picture))
    Image.fromarray(np.hstack(row)).save(HERE / name, quality=88)


def where_looked(run: Path, name: str, side: int = 700) -> None:
    """Coarse scores of a cascade on the left; on the right what each tile owns, finer tiles in warmer colours."""
    import cv2
    import numpy as np
    from PIL import ImageDraw

    from workflows.report.images.heatmap import read_heatmap
    from workflows.run.plan.cascade import WHERE
    from workflows.store.run_store import RunStore
    from wsi import open_slide

    with RunStore.open(run) as store:
        tiles, skipped, facts = store.tiles(), store.skipped(), store.manifest.slide
    with open_slide(facts.path) as opened:
        plain = Image.fromarray(opened.thumbnail(side)).convert("RGB")
    factor = plain.width / facts.width
    heatmap = read_heatmap(run / WHERE)
    cell = heatmap.cell0[0] * factor, heatmap.cell0[1] * factor
    known = np.nan_to_num(heatmap.values[0])
    size = round(known.shape[1] * cell[0]), round(known.shape[0] * cell[1])
    shown = cv2.resize((known * 255).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    covered = cv2.resize(np.isfinite(heatmap.values[0]).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shown, covered = shown[: plain.height, : plain.width], covered[: plain.height, : plain.width]
    colours = cv2.cvtColor(cv2.applyColorMap(shown, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    left = np.asarray(plain).copy()
    part = left[: shown.shape[0], : shown.shape[1]]
    part[covered > 0] = (0.45 * part + 0.55 * colours)[covered > 0].astype(np.uint8)
    right = plain.copy()
    draw = ImageDraw.Draw(right, "RGBA")
    finest = min(int(row["width0"]) for row in tiles)
    for row in tiles:
        box = [int(row[f"core_{edge}"]) * factor for edge in ("x0", "y0", "x1", "y1")]
        if int(row["tile"]) in skipped:
            draw.rectangle(box, fill=(120, 130, 165, 110))
            continue
        level = round(np.log2(row["width0"] / finest))
        draw.rectangle(box, outline=((214, 40, 40), (240, 140, 0), (0, 114, 178), (0, 80, 60))[min(level, 3)], width=2)
    both = Image.new("RGB", (2 * plain.width + 12, plain.height), "white")
    both.paste(Image.fromarray(left), (0, 0))
    both.paste(right, (plain.width + 12, 0))
    both.save(HERE / name, quality=88)


def adaptive(slide: Path, out: Path, name: str) -> None:
    """A run with coarse tiles, a token budget and splits on a slide of the demonstration."""
    flags = ["--where", "Is there tumor in this image?", "--where-mpp", "0.5", "--where-tile-size", "128"]
    flags += ["--where-threshold", "0.4", "--token-budget", "18000", "--split", "1", "-o", str(out)]
    subprocess.run([sys.executable, "-m", "qwenvl", "detect", str(slide), *flags], check=True)
    where_looked(out, name)


def report(run: Path, name: str) -> None:
    """The HTML report of a run as a browser shows it."""
    import shutil

    from workflows.report.html import write_slide_report

    chromium = next((p for of in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(of))), None)
    if chromium is None:
        print(f"{name}: no chromium to open the report in")
        return
    shot = run / "report.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,2150"]
    page = write_slide_report(run).absolute().as_uri()
    subprocess.run([chromium, *flags, f"--screenshot={shot}", page], check=True, capture_output=True)
    shrink(shot, name)
    shot.unlink()


def main() -> None:
    """Run the demonstration in a temporary folder and keep its pictures."""
    HERE.mkdir(exist_ok=True)
    fields("synthetic.jpg")
    said_twice("engine-retaken.jpg")
    how_sure("engine-scores.jpg")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        subprocess.run([sys.executable, "-m", "qwenvl", "demo", "-o", str(out)], check=True)
        shrink(out / "nuclei" / "overview.png", "demo-overview.jpg")
        shrink(out / "tumor" / "overview.png", "demo-tumor.jpg", 900)
        detail(next(out.glob("*.svs")), out / "nuclei", "demo-detail.jpg")
        report(out / "nuclei", "report.jpg")
        adaptive(next(out.glob("*.svs")), Path(folder) / "adaptive", "adaptive.jpg")


if __name__ == "__main__":
    main()
