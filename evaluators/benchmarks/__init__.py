"""Benchmarks and their problems: files, suites, reference answers and prompts."""
