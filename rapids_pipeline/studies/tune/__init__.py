"""Tuning of a recipe's composite kernels."""
