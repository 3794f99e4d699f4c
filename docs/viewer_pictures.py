"""Make the pictures of docs/viewer: `xvfb-run -a -s "-screen 0 1400x900x24" python docs/viewer_pictures.py`.

Drives the real panels over a factory slide with the embedded model; a few minutes on two cores.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "images"
SIZE = (1400, 900)
_MOST_BYTES = 400_000


def pump(seconds: float) -> None:
    """Let Qt work."""
    from qtpy.QtTest import QTest

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QTest.qWait(20)


def wait(done: Callable[[], Any], seconds: float = 600) -> None:
    """Let Qt work until something is so."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("The viewer did not get there.")
        pump(0.05)


def shot(viewer: Any, name: str) -> None:
    """Save the whole window as a small PNG."""
    from PIL import Image

    from napari_qwenvl.layers.run_layers import overlays

    pump(1.5)
    for overlay in overlays(viewer):
        overlay.flush()  # on a busy machine the picture of the objects comes later than the camera
    pump(0.5)
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    target = HERE / f"viewer-{name}.png"
    # Most colours go to what is frequent; some are kept for what is rare, such as words in the table.
    rare = picture.quantize(40, method=Image.Quantize.MAXCOVERAGE).getpalette()[: 40 * 3]
    for colours in (216, 96, 48):
        palette = Image.new("P", (1, 1))
        palette.putpalette([*picture.quantize(colours).getpalette()[: colours * 3], *rare])
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
        if target.stat().st_size < _MOST_BYTES:
            break
    print(f"{target.name}: {picture.size}, {target.stat().st_size // 1024} kB, {colours + 40} colours")


def main(folder: Path) -> None:
    """Ask, watch, look, review, ask about a place."""
    import napari
    import numpy as np
    from qtpy.QtCore import Qt

    from napari_qwenvl.ask.here import AskHerePanel
    from napari_qwenvl.ask.panel import AskPanel
    from napari_qwenvl.read.frame import Frame
    from napari_qwenvl.results.panel import ResultsPanel
    from wsi.synthetic import Scene, write_slide

    slide = folder / "breast-07.svs"
    write_slide(slide, Scene(300, 256, seed=11), mpp=0.25, downsamples=(1, 4))
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    window = viewer.window._qt_window
    window.resize(*SIZE)
    viewer.open(slide, plugin="napari-qwenvl")
    viewer.canvas.overlays.scale_bar.visible = True
    panels = {"Ask Qwen-VL": AskPanel(viewer), "Ask about here": AskHerePanel(viewer), "Results": ResultsPanel(viewer)}
    docks = {
        name: viewer.window.add_dock_widget(panel, name=name, area="right", tabify=bool(number))
        for number, (name, panel) in enumerate(panels.items())
    }
    ask, here, results = panels.values()
    session = ask.running.session

    def front(name: str) -> None:
        pump(0.2)
        docks[name].raise_()
        pump(0.5)

    front("Ask Qwen-VL")
    window.resize(*SIZE)
    viewer.reset_view()
    ask.load.click()
    wait(lambda: ask.running.worker.model is not None)
    ask.plan_soon()
    wait(lambda: ask.plan is not None and "about" in ask.estimate.text())
    shot(viewer, "ask")

    ask.run.click()
    wait(lambda: session.overlay is not None and len(session.overlay) > 60)
    shot(viewer, "running")
    wait(lambda: not ask.running.busy)
    wait(lambda: not [layer for layer in viewer.layers if "not looked" in layer.name])

    front("Results")
    session.overlay.layer.visible = True
    wait(lambda: results.model.rowCount() > 0)
    viewer.scene.camera.zoom *= 2
    results.table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    results.table.selectRow(4)
    shot(viewer, "results")

    for row, decide in ((2, "accept"), (3, "accept"), (5, "reject")):
        results.table.selectRow(row)
        results.review.onward.setChecked(False)
        getattr(results.review, decide)()
    results.table.selectRow(6)
    results.review.label.setCurrentText("mitosis")
    results.review.relabel()
    results.table.selectRow(4)
    shot(viewer, "review")

    session.close_run()
    for layer in list(viewer.layers)[1:]:
        viewer.layers.remove(layer)
    viewer.reset_view()
    front("Ask about here")
    here.draw("add_rectangle")
    frame = Frame.of(0.25)
    corners = np.array([[330, 250], [330, 506], [586, 506], [586, 250]], float)
    here._layer.add(corners, shape_type="rectangle", edge_color="yellow", face_color="transparent", edge_width=3)
    here._on_drawn(type("Event", (), {"action": "added"})())
    here.question.setText("Find every nucleus.")
    here.on_ask()
    wait(lambda: len(here.asked) == 1)
    here.question.setText("Which tissue is this?")
    here.on_ask()
    wait(lambda: len(here.asked) == 2)
    here.show_answer(0)
    assert frame.known
    shot(viewer, "ask-here")
    ask.running.close()
    viewer.close()


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp())
    os.environ["NAPARI_CONFIG"] = str(place / "napari.yaml")
    os.environ.setdefault("QWENVL_REVIEWER", "reviewer")
    try:
        main(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    sys.exit(0)
