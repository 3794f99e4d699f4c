"""Asking: the one loop that all workflows run their items through, and what tiles of a slide add to it."""

from workflows.run.items import Asked, Item, Progress, run_items

__all__ = ["Asked", "Item", "Progress", "run_items"]
