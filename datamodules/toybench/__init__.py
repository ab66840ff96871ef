"""The embedded benchmark, and small files of every family, for runs and tests offline."""
