"""Trains and evaluates groups of runs, with checkpoints; it draws nothing."""
