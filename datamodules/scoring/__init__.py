"""The scorer's data: instructions with responses and their correctness, and samples of language models."""
