"""A configuration, read, checked once and frozen; a sweep's grid of runs."""
