"""Pairs scored without padding, and choosing among answers by their scores."""
