"""Asking: the one loop that all workflows run their items through, and what tiles of a slide add to it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
