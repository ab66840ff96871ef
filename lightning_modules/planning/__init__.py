"""Estimates before a run: its time, and the peak memory of a device."""
