"""What a user set under Preferences > Plugins; the defaults stand in the manifest and here."""

from __future__ import annotations

from dataclasses import dataclass, fields

PLUGIN = "napari-qwenvl"


@dataclass(frozen=True)
class Preferences:
    """Settings of the viewer, one field per property of the manifest's configurations."""

    folder: str = ""
    """Where runs go, one folder per slide; empty for beside the slide."""
    line_width: int = 2
    """Width of outlines in px of the screen."""
    keep_outlines_up_to: int = 30_000
    """More objects than this in the field are shown as density."""
    shortcuts: bool = True
    """Bind the keys of `napari_qwenvl.shortcuts`."""


def preferences() -> Preferences:
    """The settings as they are now; defaults where the plugin is not registered (scripts, other versions)."""
    try:
        from napari.settings import get_plugin_settings

        groups: object = get_plugin_settings(PLUGIN)
    except (ImportError, KeyError, AttributeError):
        return Preferences()
    found = {}
    for each in fields(Preferences):
        value = getattr(getattr(groups, _GROUPS[each.name], None), each.name, None)
        if value is not None:
            found[each.name] = value
    return Preferences(**found)


_GROUPS = {"folder": "runs", "line_width": "objects", "keep_outlines_up_to": "objects", "shortcuts": "keys"}
