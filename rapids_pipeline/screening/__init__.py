"""Feature screening: candidates, their cross-validated losses, intervals, agreement between genes, and a report."""
