"""Values and units as instruments show them, and the sheet that asks for them."""
