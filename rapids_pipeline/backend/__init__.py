"""The ground everything stands on: errors, arrays, frames, files, devices, progress.

A leaf package: it imports nothing of ours, and both `features` and `rapids_pipeline` may import it.
"""
