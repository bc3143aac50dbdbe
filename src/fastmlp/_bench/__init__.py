"""``fastmlp bench``, and what it shares with the benches of a checkout.

A workload is timed in one task after another; a contender is a library set up for it. What a contender computes is
checked (_check.py) before it is timed (_rounds.py).
"""
