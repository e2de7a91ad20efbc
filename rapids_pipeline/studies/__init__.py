"""Studies: questions that take many fits."""
