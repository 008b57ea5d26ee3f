"""Benchmarks: two or more ways of doing the same thing, timed in turn in one process, reported as ratios of medians."""
