"""Single cells: measured, put into standard sentences, searched, and written as training samples.

Names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
