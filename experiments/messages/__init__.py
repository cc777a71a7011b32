"""The lowest room: errors, warnings and the wording of messages."""
