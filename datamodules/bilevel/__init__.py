"""Data of instruction optimization: the split into inner and outer tasks, and the stream of both levels."""
