"""Inspection of a model's inputs: documents as text with their trained tokens, rows, and lengths."""
