"""Groups of rows as numbers: statistics of their targets, without a row's own."""
