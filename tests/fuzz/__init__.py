"""Property tests on random inputs: a few seconds each by default, longer with VISIONSSM_FUZZ_SECONDS=N.

A failure names its case: `VISIONSSM_FUZZ_CASE=N` runs that one alone.
"""
