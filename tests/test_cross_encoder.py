"""Scoring outside Lightning: the numbers of transformers, without padding, whatever the batch."""


