"""Scores, splits and baselines: what a prediction is worth, and compared with what."""
