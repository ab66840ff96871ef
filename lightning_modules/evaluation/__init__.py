"""Evaluation: generating answers, ranking options, scoring both, and aggregating the scores."""
