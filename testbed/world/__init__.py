"""The testbed's puzzles: skills, solutions, rewards and benchmarks."""
