"""Trackers: programs outside this project that show metrics while models train."""
