"""Adaptive sampling: which problems need more samples."""
