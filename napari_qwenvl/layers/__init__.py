"""Layers that show a run: objects, heatmap, failed tiles."""
