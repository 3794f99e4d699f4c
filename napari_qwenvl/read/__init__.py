"""Files into layers: slides, stacks, run folders."""
