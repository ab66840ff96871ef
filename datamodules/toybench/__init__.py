"""The embedded benchmark, and every family's files in small: what runs and is tested offline."""
