"""Evaluation data: examples, their prompts and options, and batches."""
