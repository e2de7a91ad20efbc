"""Benchmarks of the boosting engines."""
