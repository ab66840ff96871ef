"""Answers, rankings, their scores, and what the scores add up to."""
