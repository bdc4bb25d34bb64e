"""Replicas of real checkpoints: the same names, dtypes, shards and texts, with pseudo-random numbers.

`geometry`, `layout` and `sidecars` compute what a replica holds and touch no disk; `replica` writes it.
"""
