"""A study: recipes trained, measured, put through GRPO, registered and summarized."""
