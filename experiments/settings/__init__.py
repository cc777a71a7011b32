"""A configuration: read, checked once and frozen; and the runs of its sweep.

A command line (``arguments``) names a file and overrides fields (``configuration``,
``overrides``). ``schema`` declares the fields, ``values`` converts and checks them,
``options`` gives them to the parts of a model, and ``grid`` makes the runs.
"""
