"""Benchmarks of the SVR engines."""
