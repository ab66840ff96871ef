"""What a model reads of a run's data: documents as text with the tokens that are trained, rows, and lengths."""
