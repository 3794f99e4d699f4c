"""Images before the vision tower: checks, geometry, marks, patches, video."""
