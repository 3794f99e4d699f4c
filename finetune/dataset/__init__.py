"""Labels of any tool as one dataset in level-0 px, and tiles cut from it."""
