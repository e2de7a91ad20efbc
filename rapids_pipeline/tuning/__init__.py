"""Tuning of a recipe's kernel machines: what is searched, on which held-out rows, the study, its results and report."""
