"""Models sharded over processes, and the checkpoints of all strategies."""
