"""Pure functions from what was observed to what status says."""
