"""Learnable instructions (phi), the loss of a model that reads them, and the outer level that trains them."""
