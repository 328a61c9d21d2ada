"""Proxies computed from samples, weights and counts; no model is run here."""
