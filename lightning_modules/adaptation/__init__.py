"""Adaptation (Cappy, arXiv 2311.06720): one scorer per task selects among the responses of a frozen language model."""
