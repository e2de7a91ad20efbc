"""The exact engine: greedy trees with vector leaves by exact search over presorted codes."""
