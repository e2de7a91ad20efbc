"""Data: files become checked rows."""
