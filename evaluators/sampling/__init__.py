"""Engines that draw samples, and the files that keep them."""
