"""A spatial prediction in the viewer: its slide, the spots of every gene in colours, and the regions as boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_qwenvl.read.frame import Frame, rectangle
from napari_qwenvl.read.slide_layer import LayerData, layer_data, slide_layers, slide_of
from workflows.errors import SpatialError
from workflows.inputs.reopening import reopen
from workflows.report.images.colours import label_colours
from workflows.store.provenance import SlideFacts
from wsi.regions.frames import PixelFrame, SlideFrames
from wsi.regions.geojson import load_geojson

if TYPE_CHECKING:
    from anndata import AnnData

Reader = Callable[[str], list[LayerData]]

SPATIAL = "qwenvl_spatial"
"""Key of a spots layer's metadata: the gene, and whether its values were predicted or measured."""

_TABLE, _RECORD, _REGIONS = "predictions.h5ad", "prediction.json", "regions.geojson"
_SPOT = 0.8  # diameter of a spot by the distance of spots
_UNKNOWN = "#9a9a9a"


def get_spatial_reader(path: str | Sequence[str]) -> Reader | None:
    """npe2 reader of the folders of `qwenvl spatial predict` and their tables; None for any other file."""
    if not isinstance(path, str):
        return None
    return read_spatial if (_folder(path) / _RECORD).is_file() and (_folder(path) / _TABLE).is_file() else None


def read_spatial(path: str) -> list[LayerData]:
    """Slide (unless it is shown already), spots of every gene and boxes of its regions.

    The first gene is shown; the others, and what was measured, are there as hidden layers. Spots without an answer are
    gray rings: nobody knows them, they are not low.

    Raises
    ------
    SpatialError
        The table cannot be read or is not of a prediction.
    """
    folder = _folder(path)
    table = _read_table(folder / _TABLE)
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    facts = record["slide"]
    scale = (facts["mpp_x"], facts["mpp_y"]) if facts["mpp_x"] and facts["mpp_y"] else None
    frame = Frame.of(scale)
    layers = spot_layers(table, frame)
    if (folder / _REGIONS).is_file():
        shown = facts.get("qupath_bounds")
        frames = SlideFrames.cropped(shown, (facts["width"], facts["height"]))
        # predictions that record no bounds were written in level-0 px
        given = PixelFrame.LEVEL0 if shown is None else None
        layers += region_layers(load_geojson(folder / _REGIONS, frames, given), frame)
    return [*_slide_layers(facts, folder), *layers]


def spot_layers(table: AnnData, frame: Frame) -> list[LayerData]:
    """A layer of points per gene and kind of value, and one of spots without an answer.

    Parameters
    ----------
    table : AnnData
        Of `workflows.science.spatial.result.prediction_table`: places in level-0 px, x then y.
    """
    places = np.asarray(table.obsm["spatial"], np.float64)[:, ::-1]
    options: dict[str, Any] = {
        **frame.corner_options(),
        "size": _SPOT * float(table.uns["qwenvl"]["pitch_px0"]),
        "border_width": 0.0,
    }
    layers: list[LayerData] = []
    names = [str(name) for name in table.obsm["predicted"].columns]
    for name in names:
        for kind in ("predicted", "measured"):
            if kind not in table.obsm or name not in table.obsm[kind]:
                continue
            values = table.obsm[kind][name].to_numpy(np.float64)
            known = np.isfinite(values)
            if not known.any():
                continue
            low, high = (0.0, 1.0) if kind == "predicted" else (float(values[known].min()), float(values[known].max()))
            layers.append(
                (
                    places[known],
                    options
                    | {
                        "name": f"{name}, {'probability of high' if kind == 'predicted' else 'measured'}",
                        "features": {"value": values[known], "spot": table.obs_names[known].to_numpy(str)},
                        "face_color": "value",
                        "face_colormap": "viridis",
                        "face_contrast_limits": (low, max(high, low + 1e-9)),
                        "opacity": 0.8,
                        "visible": name == names[0] and kind == "predicted",
                        "metadata": {SPATIAL: {"gene": name, "kind": kind}},
                    },
                    "points",
                )
            )
    unknown = ~np.isfinite(table.obsm["predicted"].to_numpy(np.float64)).all(axis=1)
    if unknown.any():
        rings = options | {
            "name": f"no answer: {int(unknown.sum())} spots",
            "face_color": "transparent",
            "border_color": _UNKNOWN,
            "border_width": 0.1,
            "metadata": {SPATIAL: {"gene": None, "kind": "unknown"}},
        }
        layers.append((places[unknown], rings, "points"))
    return layers


def region_layers(document: dict[str, Any], frame: Frame) -> list[LayerData]:
    """A layer of boxes per class of the regions' GeoJSON in level-0 px; only the first is shown."""
    found: dict[str, list[Any]] = {}
    for feature in document["features"]:
        corners = np.asarray(feature["geometry"]["coordinates"][0], np.float64)
        box = np.array([*corners.min(axis=0), *corners.max(axis=0)])
        found.setdefault(feature["properties"]["classification"]["name"], []).append(rectangle(box))
    colours = label_colours(list(found))
    return [
        (
            boxes,
            frame.corner_options()
            | {
                "name": f"regions: {label}",
                "shape_type": "rectangle",
                "face_color": "transparent",
                "edge_color": "#{:02x}{:02x}{:02x}".format(*colours[label]),
                "edge_width": 12.0,
                "visible": number == 0,
            },
            "shapes",
        )
        for number, (label, boxes) in enumerate(found.items())
    ]


def _folder(path: str) -> Path:
    given = Path(path)
    return given.parent if given.name == _TABLE else given


def _read_table(path: Path) -> AnnData:
    from workflows.export._file import require

    require("anndata", "A spatial prediction", "'napari-qwenvl[science]'")
    import anndata

    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise SpatialError(f"{path} cannot be read as AnnData: {error}") from error
    if "predicted" not in table.obsm or "spatial" not in table.obsm or "qwenvl" not in table.uns:
        raise SpatialError(f"{path} is not of a prediction. Make one: qwenvl spatial predict.")
    return table


def _slide_layers(facts: Mapping[str, object], folder: Path) -> list[LayerData]:
    """The slide, unless it is shown, or is not found; a message says so then."""
    import napari
    from napari.utils.notifications import show_warning

    viewer = napari.current_viewer()
    shown = [] if viewer is None else [slide_of(layer) for layer in slide_layers(viewer)]
    if any(slide is not None and slide.fingerprint == facts["fingerprint"] for slide in shown):
        return []
    found = reopen(SlideFacts.model_validate(facts), folder)
    if found.slide is None:
        show_warning(f"{found.note} The spots are shown without their slide.")
        return []
    return [layer_data(found.slide)]  # type: ignore[arg-type]
