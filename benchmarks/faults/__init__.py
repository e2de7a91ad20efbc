"""Faults: kills, full disks, limits and hostile input, and what may not come of them."""
