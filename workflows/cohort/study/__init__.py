"""What a study asks of which slides, checked before the first tile."""
