"""Adaptation (Cappy): a scorer for each task selects among the responses of a frozen language model."""
