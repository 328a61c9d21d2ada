"""Verdicts on samples: whether an answer equals the reference."""
