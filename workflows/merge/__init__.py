"""Objects at slide scale: what several tiles saw becomes one object."""
