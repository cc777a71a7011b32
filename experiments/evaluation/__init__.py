"""The rows and arrays that report a run: names, units and verdicts."""
