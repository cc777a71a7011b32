"""Images: where they come from, and how they become integers in three splits."""
