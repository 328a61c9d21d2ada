"""Predictors with intervals, and the right to abstain."""
