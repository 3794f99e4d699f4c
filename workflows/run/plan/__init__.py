"""What a run will ask: tiles, cascade, budget, and what it takes."""
