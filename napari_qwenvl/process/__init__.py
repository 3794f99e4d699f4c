"""The model's own process, and the run it works on."""
