"""Predictions: pairs in, files out."""
