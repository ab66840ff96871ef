"""Answers of a trained model: to the prompts of a file, or in a conversation."""
