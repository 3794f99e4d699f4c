"""Layers that hatch tiles which failed or were not looked at, kept while a run goes on and changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from napari_qwenvl.layers.keys import TILES
from napari_qwenvl.layers.removing import remove_layer
from napari_qwenvl.read.slide_layer import LayerData

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class Hatching:
    """The hatched tiles of one run. Layers are changed rather than made anew, because making one takes time."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._shown: dict[str, bool] | None = None
        """While hidden: which were visible."""

    def hide(self) -> None:
        """Take them out of sight: what they say is no longer so."""
        if self._shown is None:
            self._shown = {kind: layer.visible for kind, layer in self._layers()}
            for _, layer in self._layers():
                layer.visible = False

    def steps(self, wanted: Sequence[LayerData], below: object) -> Iterator[Callable[[], None]]:
        """What to do, in pieces that take little time each, until these are shown `below` a layer."""
        shown, self._shown = self._shown or {}, None
        by_kind = {options["metadata"][TILES]: (data, options) for data, options, _ in wanted}
        present = dict(self._layers())
        for kind, layer in present.items():
            if kind not in by_kind:
                yield lambda layer=layer: remove_layer(self._viewer, layer)  # type: ignore[misc]
        for kind, (data, options) in by_kind.items():
            if kind in present:
                visible = shown.get(kind, present[kind].visible)
                yield lambda k=kind, d=data, o=options, v=visible: _change(present[k], d, o, v)  # type: ignore[misc]
            else:
                yield from self._add(data, options, below)

    def clear(self) -> None:
        """Remove them all."""
        for _, layer in self._layers():
            remove_layer(self._viewer, layer)
        self._shown = None

    def _layers(self) -> list[tuple[str, Any]]:
        return [(layer.metadata[TILES], layer) for layer in self._viewer.layers if TILES in layer.metadata]

    def _add(self, data: object, options: Mapping[str, object], below: object) -> Iterator[Callable[[], None]]:
        layers = self._viewer.layers
        active, added = layers.selection.active, list[Any]()
        yield lambda: added.append(self._viewer.add_image(data, **options))
        if below in layers:
            yield lambda: layers.move(layers.index(added[0]), layers.index(below))
        if active in layers:
            yield lambda: setattr(layers.selection, "active", active)


def _change(layer: Layer, data: object, options: Mapping[str, object], visible: bool) -> None:
    layer.data, layer.name = data, options["name"]
    layer.visible = visible
