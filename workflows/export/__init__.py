"""Runs for other programs."""

from workflows.export.geojson import export_geojson
from workflows.export.tables import export_objects_csv, export_tiles_csv

__all__ = ["export_geojson", "export_objects_csv", "export_tiles_csv"]
