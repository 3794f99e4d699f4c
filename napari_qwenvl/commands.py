"""What the menus do without a panel."""

from __future__ import annotations

from pathlib import Path

import napari

from napari_qwenvl.layers.heatmap import tissue_layer
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import slide_layers, slide_of
from napari_qwenvl.shortcuts import listing


def open_run(viewer: napari.Viewer) -> None:
    """Ask for a run folder and show it."""
    from qtpy.QtWidgets import QFileDialog

    folder = QFileDialog.getExistingDirectory(viewer.window._qt_window, "Open the folder of a run")
    if folder:
        viewer.open(Path(folder), plugin="napari-qwenvl")


def show_tissue(viewer: napari.Viewer) -> None:
    """Find the tissue of the topmost slide, on another thread, and show it as a layer."""
    from napari.qt.threading import create_worker
    from napari.utils.notifications import show_info

    from wsi import TissueMask

    slide = next((slide_of(layer) for layer in slide_layers(viewer)), None)
    if slide is None:
        show_info("No slide is open. Open one with File > Open, then show its tissue.")
        return
    frame = Frame.of(slide.mpp_xy)
    worker = create_worker(TissueMask.from_slide, slide, _start_thread=False)

    def show(mask: TissueMask) -> None:
        picture, options, _ = tissue_layer(mask, frame)
        viewer.add_image(picture, **options | {"visible": True})

    worker.returned.connect(show)
    worker.start()


def show_shortcuts(viewer: napari.Viewer) -> None:
    """List every key of this plugin."""
    from qtpy.QtWidgets import QMessageBox

    box = QMessageBox(viewer.window._qt_window)
    box.setWindowTitle("Keys of Qwen-VL for slides")
    box.setText(f"<pre>{listing()}</pre>They can be switched off under Preferences > Plugins.")
    box.open()
