"""The step `evaluate`: from checkpoints to stored proxies."""
