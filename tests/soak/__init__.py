"""Long, random runs against everything that must not break: `make soak`. `test_soak.py` runs some of each in `make test`.

A job runs in a process of its own, so that one that is stopped by a fault is a failure with a name and a seed.
"""
