"""A run folder in the viewer: its slide, what the tiles said, and its objects as an overlay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from napari_qwenvl.layers.heatmap import heatmap_layers, tile_layers, tissue_layer
from napari_qwenvl.layers.keys import OVERLAY, RUN
from napari_qwenvl.layers.objects import Objects
from napari_qwenvl.layers.overlay import Overlay
from napari_qwenvl.layers.scheduling import has_window
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.slide_layer import LayerData, layer_data, slide_layers, slide_of
from qwenvl.request import Task
from workflows.errors import RunNotFoundError
from workflows.inputs.opening import find_mask
from workflows.inputs.reopening import reopen_run
from workflows.merge.merged import iter_merged
from workflows.report.images.heatmap import read_heatmap
from workflows.store.folder import JOURNAL
from workflows.store.run_store import RunStore
from wsi import Plane
from wsi.errors import SlideError
from wsi.slide import Slide

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_TASKS = (Task.DETECT, Task.POINT)


def run_folder(path: Path | str) -> Path:
    """The folder of a run, which may be named by its journal."""
    path = Path(path)
    return path.parent if path.name == JOURNAL else path


def read_layers(path: Path | str) -> list[LayerData]:
    """Layers of a run for napari's reader; its objects follow in the current viewer once these are there.

    A slide that is open already is not opened again. Where the slide is no longer at its place, or another one is,
    the layers come without it and a message says so.

    Raises
    ------
    RunNotFoundError, StoreError
    """
    import napari

    folder = run_folder(path)
    viewer = napari.current_viewer()
    layers = folder_layers(folder, viewer)
    if viewer is not None:
        _overlay_after(viewer, folder, len(layers))
    return layers


def folder_layers(folder: Path, viewer: Viewer | None = None) -> list[LayerData]:
    """Slide (unless `viewer` shows it), tissue, heatmap, and tiles without an answer."""
    with RunStore.open(folder) as store:
        facts = store.manifest.slide
        found = reopen_run(store)
        slide = found.slide
        layers = further_layers(store, slide, _say) + tile_layers(store, frame_of(store))
        if slide is None:
            _say(f"{found.note} The results are shown without it. Open the slide itself to see them on it.")
        elif not _shown(viewer, facts.fingerprint):
            layers.insert(0, layer_data(slide))  # type: ignore[arg-type]
    return layers


def further_layers(store: RunStore, slide: Slide | None, say: Callable[[str], None]) -> list[LayerData]:
    """Tissue (where the slide is there) and heatmaps of a run; `say` gets what cannot be shown, and why."""
    frame, facts = frame_of(store), store.manifest.slide
    layers: list[LayerData] = []
    if slide is not None:
        try:
            mask = store.manifest.mask
            layers.append(tissue_layer(find_mask(mask.source, slide, mask.frame)[0], frame))
        except (SlideError, OSError) as error:
            say(f"The tissue mask of the run cannot be shown: {error}")
    try:
        heatmap = read_heatmap(store.folder)
    except RunNotFoundError:
        return layers  # words have none, and a run that has not ended has none yet
    return layers + heatmap_layers(heatmap, frame, store.manifest.request, (facts.width, facts.height))


def frame_of(store: RunStore) -> Frame:
    """Where the slide of a run lies in the viewer."""
    slide = store.manifest.slide
    if slide.mpp_x is None or slide.mpp_y is None:
        return Frame.of(None)
    return Frame.of((slide.mpp_x, slide.mpp_y))


def plane_of_run(store: RunStore) -> Plane | None:
    """The plane of a stack that a run is about; None for slides."""
    words = store.manifest.slide.options.get("plane")
    return None if words is None else Plane.parse(words)


def iter_objects(folder: Path | str) -> Iterator[tuple[tuple[str, ...], Objects]]:
    """Labels and merged objects of a run, some thousand at a time."""
    with RunStore.open(folder) as store:
        labels = store.labels
        for columns in iter_merged(store, labels):
            yield labels, Objects.from_columns(columns)


def add_objects(viewer: Viewer, folder: Path | str) -> Overlay | None:
    """Show the objects of a run as an overlay; None for tasks that answer otherwise.

    With Qt they are read on another thread and appear as they come. `overlay_of(layer)` finds the overlay
    again from its layer.
    """
    folder = Path(folder)
    with RunStore.open(folder) as store:
        if store.manifest.request.task not in _TASKS:
            return None
        frame, labels, plane = frame_of(store), store.labels, plane_of_run(store)
    overlay = Overlay(viewer, um_per_px=(frame.step_x, frame.step_y) if frame.known else None, plane=plane)
    overlay.layer.metadata[RUN] = str(folder)
    overlay.labels = list(labels)
    if has_window(viewer):
        from napari.qt.threading import create_worker

        worker = create_worker(iter_objects, folder, _start_thread=False)
        worker.yielded.connect(lambda batch: _append(overlay, *batch))
        worker.start()
    else:
        for batch in iter_objects(folder):
            _append(overlay, *batch)
    return overlay


def _append(overlay: Overlay, labels: tuple[str, ...], objects: Objects) -> None:
    if not overlay.closed:
        if labels != tuple(overlay.labels):
            overlay.labels = list(labels)
        overlay.append(objects)


def overlay_of(layer: Layer) -> Overlay | None:
    """The overlay that a layer belongs to, or None."""
    found = getattr(layer, "metadata", {}).get(OVERLAY)
    return found if isinstance(found, Overlay) else None


def overlays(viewer: Viewer) -> list[Overlay]:
    """Overlays shown in a viewer, topmost first."""
    return [found for layer in reversed(viewer.layers) if (found := overlay_of(layer)) is not None]


def _overlay_after(viewer: Viewer, folder: Path, number: int) -> None:
    """Add the overlay once napari has inserted the `number` layers that a reader returned."""
    left = number

    def inserted() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            viewer.layers.events.inserted.disconnect(inserted)
            add_objects(viewer, folder)

    if number:
        viewer.layers.events.inserted.connect(inserted)
    else:
        add_objects(viewer, folder)


def _shown(viewer: Viewer, fingerprint: str) -> bool:
    slides = [] if viewer is None else [slide_of(layer) for layer in slide_layers(viewer)]
    return any(slide is not None and slide.fingerprint == fingerprint for slide in slides)


def _say(message: str) -> None:
    from napari.utils.notifications import show_warning

    show_warning(message)
