"""Public outcomes, the prior that is learned from them, and the order that it gives."""
