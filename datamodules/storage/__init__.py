"""The store: tokenized documents of tasks on disk, in folders whose names are digests of what decides their content."""
