"""The data of two levels: which tasks are inner and which outer, and when each is trained."""
