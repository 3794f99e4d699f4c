"""OME-Zarr: container, images, levels, chunks, limits."""
