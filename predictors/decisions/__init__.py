"""Ranking, readiness, and the plan of RL runs."""
