"""Folders of weights: open them, check them, load the model and its tokenizer."""
