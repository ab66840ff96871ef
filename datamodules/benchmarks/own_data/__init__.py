"""A user's own tasks: files of rows in known forms, chat among them."""
