"""The method: members in two levels, and their blend."""
