"""Evaluation: rank options, score answers, and average the scores as OPT-IML does."""
