"""Readers: one module per family of formats, and the registry that chooses between them."""
