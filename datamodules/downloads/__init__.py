"""Where the collections come from, and how they are obtained: git repositories, hub datasets, files placed by hand."""
