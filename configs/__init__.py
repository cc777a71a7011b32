"""Configurations and sweeps; they import neither the library nor experiments."""
