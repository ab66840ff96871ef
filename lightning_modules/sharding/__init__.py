"""Models cut over processes, and the files they leave."""
