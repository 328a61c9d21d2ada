"""Callbacks that register checkpoints and outcomes while a trainer runs.

They are subclasses of transformers' `TrainerCallback`, for its `Trainer` and the trainers of TRL.
They write on the first process only, and a registry that cannot be written never stops training.
"""
