"""Programs that measure time, memory and accuracy, and write what they found to `benchmarks/results/`."""
