"""Rendering: an example becomes a prompt (text), and a prompt becomes a document (token ids)."""
