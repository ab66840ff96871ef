"""Scorers (Cappy, arXiv 2311.06720): cross-encoders, their losses and metrics, and selection among responses."""
