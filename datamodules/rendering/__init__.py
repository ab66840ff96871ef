"""An example becomes text, and the text becomes tokens."""
