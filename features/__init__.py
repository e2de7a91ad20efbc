"""Makers of columns: everything that turns a cell type, a molecule or a group of targets into features.

Imports `rapids_pipeline.backend` at most.
"""
