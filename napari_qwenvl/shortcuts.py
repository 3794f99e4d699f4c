"""Every key of this plugin, in one table: what the viewer binds, what the help shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_qwenvl.layers.keys import HEATMAP, OVERLAY
from napari_qwenvl.preferences import preferences

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


@dataclass(frozen=True)
class Shortcut:
    """A key, what it does in words, and the name of the action that a widget or this module provides."""

    key: str
    does: str
    action: str


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut("Shift-O", "show or hide the objects", "toggle_objects"),
    Shortcut("Shift-H", "show or hide heatmaps", "toggle_heatmaps"),
    Shortcut("Shift-W", "show the whole slide", "whole_slide"),
    Shortcut("Shift-A", "accept the chosen objects", "accept"),
    Shortcut("Shift-X", "reject them", "reject"),
    Shortcut("Shift-L", "give them the class in the box", "relabel"),
    Shortcut("Shift-C", "take back decisions about them", "clear"),
    Shortcut("Shift-M", "move or resize them", "edit"),
    Shortcut("Shift-D", "draw an object", "draw"),
    Shortcut("Shift-N", "next object without review", "next"),
    Shortcut("Shift-B", "the one before", "back"),
    Shortcut("Shift-U", "the most uncertain one", "uncertain"),
    Shortcut("Control-Z", "undo the last decision", "undo"),
    Shortcut("Control-Shift-Z", "redo it", "redo"),
)
"""Letters with Shift, because napari uses plain digits and letters for its own tools."""


def bind(viewer: Viewer, actions: dict[str, Callable[[Viewer], None]]) -> list[Shortcut]:
    """Bind the keys of the actions given; none where the user switched shortcuts off.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel
    actions : dict
        Functions of the viewer by the name of their action; keys of actions that are not given stay free.

    Returns
    -------
    list of Shortcut
        Those that are bound now.
    """
    if not preferences().shortcuts:
        return []
    bound = [each for each in SHORTCUTS if each.action in actions]
    for each in bound:
        viewer.bind_key(each.key, actions[each.action], overwrite=True)
    return bound


def listing() -> str:
    """All keys and what they do, one per line."""
    width = max(len(each.key) for each in SHORTCUTS)
    return "\n".join(f"{each.key:<{width}}  {each.does}" for each in SHORTCUTS)


def toggle_objects(viewer: Viewer) -> None:
    """Show or hide every overlay."""
    _toggle([layer for layer in viewer.layers if OVERLAY in layer.metadata])


def toggle_heatmaps(viewer: Viewer) -> None:
    """Show or hide every heatmap."""
    _toggle([layer for layer in viewer.layers if HEATMAP in layer.metadata])


def whole_slide(viewer: Viewer) -> None:
    """Fit the view to what is open."""
    viewer.reset_view()


ACTIONS: dict[str, Callable[[Viewer], None]] = {
    "toggle_objects": toggle_objects,
    "toggle_heatmaps": toggle_heatmaps,
    "whole_slide": whole_slide,
}
"""The actions that need no panel."""


def _toggle(layers: list[Layer]) -> None:
    shown = any(layer.visible for layer in layers)
    for layer in layers:
        layer.visible = not shown
