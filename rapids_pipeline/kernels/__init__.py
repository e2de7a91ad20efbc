"""Composite kernels over pairs of cell type and compound: factors, response profiles, weighted sums of products."""
