"""A torch that no command may import: it takes seconds, and nothing needs it."""

raise RuntimeError("torch is imported")
