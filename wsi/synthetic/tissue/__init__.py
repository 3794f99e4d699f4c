"""What synthetic tissue is made of."""
