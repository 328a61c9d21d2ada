"""What a checkpoint makes of the prompts that RL will use."""
