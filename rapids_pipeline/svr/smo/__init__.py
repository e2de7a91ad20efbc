"""Sequential minimal optimisation on one Gram matrix that all targets share."""
