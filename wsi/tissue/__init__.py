"""The tissue mask: which parts of a slide are worth asking about."""

from wsi.tissue.mask import METHODS, TissueMask, overview

__all__ = ["METHODS", "TissueMask", "overview"]
