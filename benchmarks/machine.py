"""The former name of what `benchmarks/harness.py` holds."""

from harness import all_versions, cores, described, gpu, named, processor

__all__ = ["all_versions", "cores", "described", "gpu", "named", "processor"]
