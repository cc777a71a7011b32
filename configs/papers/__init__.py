"""Published tables, one configuration a table."""
