"""The step `compare`: what two or three checkpoints do differently, with intervals."""
