"""Decontamination: finds text that training and evaluation examples share."""
