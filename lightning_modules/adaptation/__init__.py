"""A scorer for each task, which adapts a frozen language model to it."""
