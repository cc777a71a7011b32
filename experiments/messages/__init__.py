"""Errors, warnings and the wording of messages; it imports no other room."""
