"""Read labeled rows."""
