"""Rows rendered by PromptSource's Jinja templates, which run in a sandbox."""
