"""Downloads of collections: where their files come from, and how they are obtained and placed."""
