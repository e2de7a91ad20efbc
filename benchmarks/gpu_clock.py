"""The former name of what `benchmarks/harness.py` holds."""

from harness import by_turns, median, peak_mib, seconds, synchronise

__all__ = ["by_turns", "median", "peak_mib", "seconds", "synchronise"]
