"""Examples become prompts, and prompts become tokens."""
