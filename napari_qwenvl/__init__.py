"""The napari side: a skin over packages that know nothing of the viewer."""
