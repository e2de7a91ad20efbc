"""Members of a stack: one file a kind."""
