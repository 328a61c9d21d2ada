"""Read what trainers and other evaluation tools wrote."""
