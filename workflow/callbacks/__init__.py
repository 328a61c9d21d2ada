"""Callbacks that register checkpoints and outcomes while a trainer runs."""
