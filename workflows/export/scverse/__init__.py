"""Exports for scanpy, squidpy and spatialdata."""
