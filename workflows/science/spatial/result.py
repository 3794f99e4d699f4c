"""What a prediction leaves behind: AnnData, regions as GeoJSON, maps drawn with scanpy, and a record of it all."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workflows.errors import SpatialError
from workflows.report.images.colours import label_colours
from workflows.science.spatial.questions import region_label
from workflows.science.spatial.regions import ExpressionLevel
from workflows.science.spatial.samples import regions_of
from workflows.science.spatial.sections.genes import ExpressionTarget, expression, find_genes
from workflows.science.spatial.sections.section import PLACES, Section
from workflows.store.folder import replace_whole
from workflows.store.provenance import RUN_NAMESPACE
from wsi.regions.frames import HEAD, PixelFrame, SlideFrames
from wsi.slide import Slide

if TYPE_CHECKING:
    from anndata import AnnData

PREDICTED, MEASURED = "predicted", "measured"
"""Keys of `obsm`: one column per gene or signature."""

TABLE, REGIONS, MAPS = "predictions.h5ad", "regions.geojson", "maps.png"
_PICTURE = 1200
_DRAWN = 4
_SPOT = 1.1  # diameter of a drawn spot by the distance of spots: larger than it was, so that colours are seen


def prediction_table(
    section: Section,
    slide: Slide,
    names: Sequence[str],
    values: NDArray[np.float64],
    facts: Mapping[str, Any],
    *,
    targets: Sequence[ExpressionTarget] = (),
    region_level: ExpressionLevel | None = None,
    least: int = 3,
    rounds: int = 1,
) -> tuple[AnnData, dict[str, NDArray[np.float64]]]:
    """A section with what was predicted for it.

    Parameters
    ----------
    values : float64 (spots, names)
        Probabilities; NaN where there is no answer.
    facts : mapping
        Provenance, kept in `uns['qwenvl']` as JSON.
    targets : sequence of ExpressionTarget
        Those whose measured values are kept beside, as `obsm['measured']`.

    Returns
    -------
    AnnData
        `obsm['predicted']` and `obsm['measured']` are tables with a column per gene; `obs['predicted CD8A']` the same
        for plots; `obs['region CD8A']` the number of the region a spot belongs to, 0 for none. Places in
        `obsm['spatial']` are level-0 px; `uns['spatial']` holds a small picture of the slide as scanpy expects it.
    dict of str to float64 (k, 4)
        Boxes of the regions by name, in level-0 px.
    """
    import pandas as pd

    table = section.counts.copy()
    table.obsm[PREDICTED] = pd.DataFrame(values, index=table.obs_names, columns=list(names))
    boxes: dict[str, NDArray[np.float64]] = {}
    for column, name in enumerate(names):
        table.obs[f"{PREDICTED} {name}"] = values[:, column]
        boxes[name], region = regions_of(
            values[:, column],
            section.places0,
            section.pitch0,
            region_level or ExpressionLevel("q0.75"),
            least=least,
            rounds=rounds,
            size0=(slide.width, slide.height),
        )
        table.obs[f"region {name}"] = region + 1
    if targets and section.counts.n_vars:
        table.obsm[MEASURED] = pd.DataFrame(
            expression(section, targets), index=table.obs_names, columns=[target.name for target in targets]
        )
    _add_picture(table, section, slide)
    table.uns["qwenvl"]["prediction"] = json.dumps(facts, ensure_ascii=False)
    if slide.mpp_xy is not None:
        table.uns["qwenvl"] |= {"mpp_x": slide.mpp_xy[0], "mpp_y": slide.mpp_xy[1]}
    return table, boxes


def measured_targets(section: Section, targets: Sequence[ExpressionTarget]) -> tuple[ExpressionTarget, ...]:
    """Those of the targets whose genes the section has; none for spots without counts."""
    if not section.counts.n_vars:
        return ()
    kept: list[ExpressionTarget] = []
    for target in targets:
        try:
            kept += find_genes(section, [target])
        except SpatialError:
            continue  # a gene can be predicted where it was not measured
    return tuple(kept)


def write_table(table: AnnData, path: Path) -> None:
    """Write .h5ad whole or not at all."""
    with warnings.catch_warnings():
        # anndata tells of its own coming changes.
        warnings.simplefilter("ignore", FutureWarning)
        replace_whole(path, lambda partial: table.write_h5ad(partial, compression="gzip"))


def write_regions(
    boxes: Mapping[str, NDArray[np.float64]],
    values: NDArray[np.float64],
    table: AnnData,
    path: Path,
    frames: SlideFrames,
) -> int:
    """Write the regions (boxes in level-0 px) as QuPath annotations, GeoJSON in QuPath's px; how many."""
    colours = label_colours([region_label(name) for name in boxes])
    features = []
    for column, (name, found) in enumerate(boxes.items()):
        label = region_label(name)
        regions = table.obs[f"region {name}"].to_numpy()
        for number, (x0, y0, x1, y1) in enumerate(found.tolist(), start=1):
            inside = values[regions == number, column]
            features.append(
                {
                    "type": "Feature",
                    "id": str(uuid.uuid5(RUN_NAMESPACE, f"{label} {number} {x0} {y0} {x1} {y1}")),
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
                    },
                    "properties": {
                        "objectType": "annotation",
                        "classification": {"name": label, "color": list(colours[label])},
                        "measurements": {"mean probability": float(np.nanmean(inside)), "spots": len(inside)},
                    },
                }
            )
    shown = frames.document_from_level0(features, PixelFrame.QUPATH)
    head = {"type": "FeatureCollection", HEAD: frames.record(PixelFrame.QUPATH)}
    text = json.dumps(head | {"features": shown})
    write_text(path, text + "\n")
    return len(features)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    replace_whole(path, write)


def draw_measured(section: Section, slide: Slide, targets: Sequence[ExpressionTarget], path: Path) -> None:
    """Draw what was measured over the slide: a row per gene."""
    import pandas as pd

    table = section.counts.copy()
    names = [target.name for target in targets]
    table.obsm[MEASURED] = pd.DataFrame(expression(section, targets), index=table.obs_names, columns=names)
    _add_picture(table, section, slide)
    draw_maps(table, {}, path, names)


def _add_picture(table: AnnData, section: Section, slide: Slide) -> None:
    """A small picture of the slide where scanpy and squidpy look for it, and the distance of spots."""
    picture = slide.thumbnail(_PICTURE)
    factor = picture.shape[1] / slide.width
    table.uns["spatial"] = {
        section.name: {
            "images": {"hires": picture},
            "scalefactors": {"tissue_hires_scalef": factor, "spot_diameter_fullres": section.spot0},
        }
    }
    table.uns["spatial_unit"] = "px"
    table.uns["qwenvl"] = {"pitch_px0": section.pitch0}


def draw_maps(
    table: AnnData, boxes: Mapping[str, NDArray[np.float64]], path: Path, names: Sequence[str] | None = None
) -> None:
    """Measured beside predicted over the slide, drawn with scanpy: a row per gene, regions as boxes."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt
    import scanpy
    from matplotlib.patches import Rectangle

    names = list(names if names is not None else boxes)[:_DRAWN]
    kinds = [kind for kind in (MEASURED, PREDICTED) if kind in table.obsm and set(names) & set(table.obsm[kind])]
    library = next(iter(table.uns["spatial"].values()))
    factor = library["scalefactors"]["tissue_hires_scalef"]
    picture = library["images"]["hires"]
    places = np.asarray(table.obsm[PLACES])
    margin = 2 * float(table.uns["qwenvl"]["pitch_px0"])
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin
    aspect = float((high - low)[1] / (high - low)[0])
    figure, axes = plt.subplots(
        len(names), len(kinds), figsize=(4.4 * len(kinds), 3.8 * aspect * len(names) + 0.3), squeeze=False
    )
    inches = 3.4 / float((high - low)[0])
    size = (_SPOT * float(table.uns["qwenvl"]["pitch_px0"]) * inches * 72) ** 2
    for row, name in enumerate(names):
        for column, kind in enumerate(kinds):
            axis = axes[row, column]
            if name not in table.obsm[kind]:
                axis.set_axis_off()
                continue
            axis.imshow(picture, extent=(0, picture.shape[1] / factor, picture.shape[0] / factor, 0), alpha=0.65)
            shown = table[np.isfinite(table.obsm[kind][name].to_numpy())].copy()
            shown.obs["value"] = shown.obsm[kind][name].to_numpy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of matplotlib and pandas, inside scanpy
                scanpy.pl.embedding(
                    shown,
                    PLACES,
                    color="value",
                    ax=axis,
                    show=False,
                    size=size,
                    alpha=0.85,
                    color_map="viridis",
                    title=f"{name}, {'probability of high' if kind == PREDICTED else 'measured, log'}",
                    frameon=False,
                )
            for x0, y0, x1, y1 in boxes.get(name, np.empty((0, 4))) if kind == PREDICTED else ():
                axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="black", linewidth=1.2))
            axis.set_xlim(low[0], high[0])
            axis.set_ylim(high[1], low[1])
            axis.set_aspect("equal")
    figure.tight_layout()
    replace_whole(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
    plt.close(figure)
