"""Objects in a model's text: names, numbers, dialects."""
