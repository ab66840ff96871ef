"""Sources and downloads of the collections: git repositories, hub datasets, files placed by hand."""
