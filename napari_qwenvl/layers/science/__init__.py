"""Layers of the science workflows."""
