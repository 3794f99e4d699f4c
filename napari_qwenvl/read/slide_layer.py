"""A slide as one napari layer: lazy, at its scale, with everything needed to open it again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_qwenvl.layers.keys import SLIDE
from napari_qwenvl.read.frame import Frame
from napari_qwenvl.read.pyramid import LevelView, SlidePyramid
from wsi import OpenedSlide, Plane, Rendering, open_slide
from wsi.errors import PlaneError

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

LayerData = tuple[Any, dict[str, Any], str]
_MOST_COLOURS = 6


def open_for_viewing(path: str | Path, *, mpp: float | None = None) -> OpenedSlide:
    """Open a slide, or the first plane of a stack with its channels in colours of their own.

    The plane can be changed with the sliders of the viewer; the channels' ranges come from the coarsest level.

    Raises
    ------
    SlideNotFoundError, UnsupportedSlideError, PlaneError
    """
    try:
        return open_slide(path, mpp=mpp)
    except PlaneError:
        return _open_stack(path, mpp)


def _open_stack(path: str | Path, mpp: float | None) -> OpenedSlide:
    try:
        return open_slide(path, mpp=mpp, plane=Plane())
    except PlaneError as error:
        probe = _any_rendering(path)
        if probe is None:
            raise error
        layout = probe.layout
        probe.close()
    channels = range(min(layout.channels, _MOST_COLOURS))
    rendering = Rendering.automatic(*channels)
    plane = Plane() if layout.times > 1 or layout.depths > 1 else None
    return open_slide(path, mpp=mpp, plane=plane, rendering=rendering)


def _any_rendering(path: str | Path) -> OpenedSlide | None:
    """The slide with its first channel alone, to learn how many there are; None where that is not the matter."""
    try:
        return open_slide(path, plane=Plane(), rendering=Rendering.gray(0, 0, 1))
    except PlaneError:
        return None


def layer_data(slide: OpenedSlide, name: str | None = None) -> LayerData:
    """The slide as napari takes it from a reader: levels, options, 'image'."""
    pyramid = _pyramid(slide)
    frame = Frame.of(slide.mpp_xy)
    planes = len(pyramid.planes)
    options: dict[str, Any] = {
        "name": name or _stem(slide.path),
        "rgb": True,
        "multiscale": True,
        "axis_labels": pyramid.axes,
        "scale": (1.0,) * planes + frame.scale,
        "units": ("pixel",) * planes + frame.units,
        "metadata": {SLIDE: facts(slide)},
    }
    return pyramid.views(), options, "image"


def facts(slide: OpenedSlide) -> dict[str, Any]:
    """Where a slide comes from and how it was opened, in the words of the command line."""
    return {
        "path": str(slide.path.absolute()),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "options": dict(slide.options),
    }


def slide_of(layer: Layer) -> OpenedSlide | None:
    """The open slide behind a layer that this package made, or None for any other layer."""
    data: Any = getattr(layer, "data", None)
    first = data[0] if isinstance(data, list | tuple) or hasattr(data, "shapes") else data
    return first.pyramid.slide if isinstance(first, LevelView) else None


def plane_of(layer: Layer, viewer: Viewer) -> Plane | None:
    """The plane of a stack that the viewer shows; None for a slide without planes."""
    slide = slide_of(layer)
    if slide is None:
        return None
    axes = layer.data[0].pyramid.planes
    if not axes:
        return None
    shown = layer.world_to_data(viewer.dims.point)
    return Plane(**{axis: round(float(at)) for axis, at in zip(axes, shown, strict=False)})


def slide_layers(viewer: Viewer) -> list[Image]:
    """Layers of slides, topmost first."""
    return [layer for layer in reversed(viewer.layers) if slide_of(layer) is not None]


def set_rendering(layer: Layer, rendering: Rendering) -> None:
    """Show (and from now on ask about) a stack with other colours or ranges of its channels."""
    old = slide_of(layer)
    if old is None:
        raise ValueError(f"{layer.name} is not a slide that this plugin opened.")
    slide = reopened(old, rendering=rendering)
    pyramid = _pyramid(slide)
    layer.data = pyramid.views()
    layer.metadata[SLIDE] = facts(slide)


def set_mpp(layer: Layer, mpp: float) -> None:
    """Give a slide without a scale the one its user states, in um per level-0 px; the layer is then in um."""
    old = slide_of(layer)
    if old is None:
        raise ValueError(f"{layer.name} is not a slide that this plugin opened.")
    slide = reopened(old, mpp=mpp)
    pyramid = _pyramid(slide)
    frame, planes = Frame.of(slide.mpp_xy), len(pyramid.planes)
    layer.data = pyramid.views()
    layer.scale = (1.0,) * planes + frame.scale
    layer.units = ("pixel",) * planes + frame.units
    layer.metadata[SLIDE] = facts(slide)


def reopened(slide: OpenedSlide, *, mpp: float | None = None, rendering: Rendering | None = None) -> OpenedSlide:
    """The same slide opened once more, with another scale or rendering."""
    options = slide.options
    chosen = rendering or (Rendering.parse(options["rendering"]) if "rendering" in options else None)
    given = mpp if mpp is not None else (slide.mpp_xy if slide.mpp_source == "user" else None)
    plane = Plane.parse(options["plane"]) if "plane" in options else None
    series = int(options["series"]) if "series" in options else None
    colour = options.get("colour", "stored")
    return open_slide(slide.path, mpp=given, plane=plane, rendering=chosen, series=series, colour=colour)


def _pyramid(slide: OpenedSlide) -> SlidePyramid:
    pyramid = SlidePyramid(slide, _shown_later(slide))
    pyramid.on_unreadable = _warn
    return pyramid


def _shown_later(slide: OpenedSlide) -> Callable[[], None] | None:
    """What shows the layers of a slide anew, callable from any thread; None where no Qt runs."""
    if "qtpy" not in sys.modules:
        return None
    from qtpy.QtCore import QObject, Signal
    from qtpy.QtWidgets import QApplication

    if QApplication.instance() is None:
        return None

    class Ready(QObject):
        come = Signal()

        def __init__(self) -> None:
            super().__init__()
            self.come.connect(self._show)

        def _show(self) -> None:
            import napari

            viewer = napari.current_viewer()
            for layer in [] if viewer is None else slide_layers(viewer):
                if slide_of(layer) is slide:
                    layer.data = layer.data[0].pyramid.views()

    ready = Ready()
    return lambda: ready.come.emit()


def _stem(path: Path) -> str:
    name = path.name
    for end in (".ome.zarr.zip", ".zarr.zip", ".ome.zarr", ".ome.tiff", ".ome.tif"):
        if name.lower().endswith(end):
            return name[: -len(end)]
    return path.stem


def _warn(reason: str) -> None:
    from napari.utils.notifications import show_warning

    show_warning(f"Parts of the slide cannot be read and are hatched. {reason}")
