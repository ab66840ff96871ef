"""Scorers (Cappy): cross-encoders, their losses and metrics, and selection among sampled responses."""
