"""Evaluation data: which examples, in which prompts, with which options, and their batches."""
