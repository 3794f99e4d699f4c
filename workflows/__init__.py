"""A slide goes in, every tile is asked, one report comes out. Names are loaded when they are first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
