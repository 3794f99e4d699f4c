"""Measured by generation: base beside adapter, and what was forgotten."""
