"""Evaluation: generate answers or rank options, score them, and average the scores as OPT-IML does."""
