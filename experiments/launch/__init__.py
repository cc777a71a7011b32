"""A whole sweep, trained in this process or by jobs elsewhere, and its report."""
