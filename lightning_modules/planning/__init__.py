"""What a run costs, and what a device holds, before it is run."""
