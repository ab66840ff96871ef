"""Inspection of a model's inputs (`crosstask inspect` and `check`): documents and rows as text, lengths, bad files."""
