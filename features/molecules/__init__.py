"""Molecules as rows of numbers: fingerprints, descriptors, embeddings."""
