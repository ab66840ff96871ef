"""A task's documents on disk: tokenized once, found again by content."""
