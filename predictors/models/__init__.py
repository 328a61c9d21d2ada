"""Models from proxies to the score after RL."""
