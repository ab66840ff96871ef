"""Generation of texts by a model: decoding, caches of prompts, and rows that leave a batch when they have ended."""
