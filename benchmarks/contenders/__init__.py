"""The contenders: modules that train the same model in their own way.

Each module has one function ``make(work, variant) -> epoch``; calling ``epoch()``
trains for one epoch and returns its mean training ELBO in nats. A module is imported
in a process of its own (``benchmarks.worker``), so it may import what it likes.
"""
