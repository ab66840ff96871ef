"""Packing: documents into rows, rows into optimizer steps, and steps into the batches of each replica."""
