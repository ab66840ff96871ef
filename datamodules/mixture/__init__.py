"""Sampling rates of tasks, and the order in which their examples are drawn."""
