"""Instructions as parameters, and the outer level that learns them."""
