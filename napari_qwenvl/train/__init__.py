"""The Train panel: labels, recipe, training, result."""
