"""Pixels: slides and stacks, their tissue, and the tiles that cover it."""

from wsi.grid import TileGrid
from wsi.loader import Loaded, SlideJob, TileLoader
from wsi.tissue import TissueMask

__all__ = ["Loaded", "SlideJob", "TileGrid", "TileLoader", "TissueMask"]
