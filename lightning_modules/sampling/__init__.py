"""Responses sampled from a model, or read from the answers of a hosted one, as files for scorers and selection."""
