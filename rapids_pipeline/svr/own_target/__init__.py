"""SVRs of all genes on features of each gene's own."""
