"""Make the pictures of docs/viewer/look.md: `python docs/look_pictures.py` (two minutes; needs napari and xvfb)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent / "images"
MPP = 0.25


def main() -> None:
    """A synthetic slide with its planted nuclei, and a run over it in which some tiles failed."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        screen = "-screen 0 1400x900x24 +extension GLX"
        os.execvp("xvfb-run", ["xvfb-run", "-a", "-s", screen, sys.executable, *sys.argv])
    keep = os.environ.get("LOOK_FOLDER")
    folder = Path(keep or tempfile.mkdtemp())
    os.environ.setdefault("NAPARI_CONFIG", str(folder / "settings.yaml"))
    try:
        objects(folder)
        scores(folder)
    finally:
        if keep is None:
            shutil.rmtree(folder)


def slide_in(folder: Path) -> Path:
    """The slide of the demonstration, with its truth beside it."""
    from wsi.synthetic import make_demo_slide

    path = folder / "slide.svs"
    return path if path.exists() else make_demo_slide(path).path


def window(path: Path) -> Any:
    """A viewer of 1400 x 900 px with the slide and a scale bar."""
    import napari

    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1400, 900)
    viewer.open(path, plugin="napari-qwenvl")
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.title = "napari"
    return viewer


def save(viewer: Any, name: str) -> None:
    """The whole window, after all that is waiting is drawn."""
    from qtpy.QtWidgets import QApplication

    for _ in range(20):
        QApplication.processEvents()
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    picture.save(HERE / name, quality=88)
    print(name, picture.size)


def look(viewer: Any, x0: float, y0: float, zoom: float) -> None:
    """Bring a place (level-0 px) to the middle; `zoom` is screen px per level-0 px."""
    viewer.scene.camera.zoom = zoom / MPP
    viewer.scene.camera.center = (0, y0 * MPP, x0 * MPP)


def objects(folder: Path) -> None:
    """One overlay at every level of detail."""
    from napari_qwenvl.layers.objects import Objects
    from napari_qwenvl.layers.overlay import Overlay
    from workflows.review.compare import read_truth_boxes
    from workflows.review.reviewed import State

    path = slide_in(folder)
    boxes, labels = read_truth_boxes(path.with_suffix(".truth.geojson"))
    viewer = window(path)
    overlay = Overlay(viewer, um_per_px=MPP)
    rng = np.random.default_rng(0)
    overlay.append(Objects.of(boxes, overlay.codes_of(labels), score=rng.uniform(0.4, 1, len(boxes))))
    viewer.reset_view()
    overlay.flush()
    save(viewer, "look-density.jpg")
    x0, y0 = densest(boxes)
    look(viewer, x0, y0, 0.6)
    overlay.flush()
    save(viewer, "look-outlines.jpg")
    look(viewer, x0, y0, 2.5)
    overlay.flush()
    near = overlay.in_field()
    for state, part in ((State.ACCEPTED, 0), (State.REJECTED, 1), (State.EDITED, 2)):
        overlay.update(near[part::5], state=int(state))
    middle = near[np.argmin(np.abs(boxes[near, :2] - (x0, y0)).sum(axis=1))]
    overlay.select(int(middle), move_camera=False)
    overlay.highlight(near[4::17])
    overlay.flush()
    save(viewer, "look-close.jpg")
    overlay.highlight([])
    overlay.select(None)
    shapes = overlay.editable(near[:60])
    shapes.mode = "select"
    shapes.selected_data = {20}
    overlay.flush()
    save(viewer, "look-editing.jpg")
    viewer.close()


def densest(boxes: Any) -> tuple[float, float]:
    """The middle of the 512-px cell with most boxes."""
    cell = (boxes[:, :2] // 512).astype(int)
    places, counts = np.unique(cell, axis=0, return_counts=True)
    x, y = places[np.argmax(counts)] * 512 + 256
    return float(x), float(y)


def scores(folder: Path) -> None:
    """A run of scores as heatmap, with tiles that failed and tiles not asked yet."""
    from qwenvl.answer import Answer, Status
    from qwenvl.engines.fake import FakeEngine
    from qwenvl.request import Request
    from workflows.run.slide import run_slide

    class Redness(FakeEngine):
        """Scores how dark a tile is, and fails on two in a row."""

        asked = 0

        def answer(self, pictures: Any, request: Any) -> list[Answer]:
            answers = []
            for picture in pictures:
                self.asked += 1
                dark = float(np.clip((200 - np.asarray(picture).mean()) / 60, 0, 1))
                failed = self.asked % 41 in (7, 8)
                answers.append(
                    Answer(Status.FAILED, error="out of memory")
                    if failed
                    else Answer(Status.OK, scores={"yes": dark, "no": 1 - dark})
                )
            return answers

    path, run = slide_in(folder), folder / "run"
    request = Request(task="score", prompt="Is there tumor?", tile_size=224, overlap=0, mpp=0.5)
    if not run.exists():
        run_slide(path, request, Redness(batch=1), run, overview=False)
    viewer = window(path)
    viewer.open(run, plugin="napari-qwenvl")
    viewer.layers.selection = [layer for layer in viewer.layers if layer.name.startswith("yes")]
    save(viewer, "look-heatmap.jpg")
    viewer.layers["tissue"].visible = True
    save(viewer, "look-tissue.jpg")
    viewer.close()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
