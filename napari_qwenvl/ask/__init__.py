"""The Ask panels: what to ask, of which model, at what cost."""
