"""Training and evaluation on MMEngine's Runner.

`launch.train` and `launch.evaluate` are what `tools/` call. `checkpoint` alone needs no extra package; the rest needs
`pip install visionssm[train]`. Importing `registration` puts all of it into MMEngine's registries.
"""
