"""Held-out examples and the generalization loss on them."""
