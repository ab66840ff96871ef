"""A trained model answers: prompts of a file, and a conversation in a terminal."""
