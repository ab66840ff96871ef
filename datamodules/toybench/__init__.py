"""The embedded benchmark, and small files in the format of every benchmark reader, for offline runs and tests."""
