"""Documents to rows, rows to optimizer steps, steps to each replica's batches."""
