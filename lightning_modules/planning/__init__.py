"""Cost of a run and peak memory of a device, computed before the run."""
