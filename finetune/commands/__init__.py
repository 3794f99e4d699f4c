"""The commands of fine-tuning. `qwenvl.cli` loads `app` through an entry point.

Modules here import only the standard library and typer at the top, so that `qwenvl --help` is quick.
"""

import typer

from finetune.commands import adapter, dataset, train

app = typer.Typer()
for module in (dataset, train, adapter):
    module.register(app)

__all__ = ["app"]
