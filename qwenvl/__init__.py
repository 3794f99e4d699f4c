"""Qwen vision-language models: a request and pictures go in, checked answers come out.

Importing this package is quick: torch and transformers load with the first name that needs them.

Examples
--------
>>> from qwenvl import LocalEngine, Request  # doctest: +SKIP
>>> engine = LocalEngine.load("embedded")  # doctest: +SKIP
>>> answers = engine.answer([tile], Request(task="detect", labels=("nucleus",)))  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
