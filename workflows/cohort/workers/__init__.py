"""Processes that run slides of a cohort, here or on a dask cluster."""
