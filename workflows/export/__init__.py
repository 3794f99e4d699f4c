"""Runs for other programs."""

from workflows.export.coco import export_coco
from workflows.export.geojson import export_geojson
from workflows.export.objects import RunObjects
from workflows.export.omezarr import export_heatmap, export_labels
from workflows.export.scverse.anndata import export_anndata
from workflows.export.scverse.spatialdata import export_spatialdata
from workflows.export.tables import export_objects_csv, export_objects_parquet, export_tiles_csv, export_tiles_parquet

__all__ = [
    "RunObjects",
    "export_anndata",
    "export_coco",
    "export_geojson",
    "export_heatmap",
    "export_labels",
    "export_objects_csv",
    "export_objects_parquet",
    "export_spatialdata",
    "export_tiles_csv",
    "export_tiles_parquet",
]
