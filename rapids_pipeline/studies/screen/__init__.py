"""Screening of feature sets."""
