"""Rows of data files and hub datasets, read one at a time and made into the columns that a benchmark reads."""
