"""Commands of the science workflows."""
