"""Decontamination: text that training and evaluation examples share."""
