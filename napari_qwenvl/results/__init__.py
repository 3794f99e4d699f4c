"""Results as tables and places, and layers saved as files."""
