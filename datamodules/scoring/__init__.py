"""The scorer's data: instructions, responses, and how correct they are."""
