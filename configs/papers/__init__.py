"""Published tables: one configuration for each."""
