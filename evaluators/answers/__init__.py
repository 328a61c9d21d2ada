"""Final answers in texts: find them, and read their words, numbers and notations."""
