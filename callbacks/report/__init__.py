"""The generalization report: its numbers, its text and its page."""
