"""The testbed's small world run as one step."""
