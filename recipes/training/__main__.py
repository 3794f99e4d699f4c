"""`python -m recipes.training CONFIG`: fine-tuning of a small model; settings as of `SmallModelConfig`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.evaluation.evaluate import table
from qwenvl.interrupt import stop_on_interrupt
from recipes.training import SmallModelConfig, finetune


def main(arguments: list[str] | None = None) -> int:
    """Train, and print what was measured; 1 for an error, 130 where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m recipes.training", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("config", type=Path, help="YAML of settings")
    parser.add_argument("--overwrite", action="store_true", help="set aside another run found in its folder")
    options = parser.parse_args(arguments)
    try:
        settings = SmallModelConfig.load(options.config)
        with stop_on_interrupt() as cancel:
            result = finetune(settings, say=print, cancel=cancel, overwrite=options.overwrite)
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return 1
    if result.stopped:
        return 130
    print(table([("base", result.base), ("adapter", result.score)]))
    print(f"adapter: {result.adapter}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
