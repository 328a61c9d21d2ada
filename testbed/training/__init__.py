"""The testbed's models: base, SFT and GRPO."""
