"""vae_jax: variational autoencoders as pure functions of arrays.

Imports run one way: densities (likelihoods, posteriors, priors) -> model ->
objectives -> training -> population; nothing here reads flags or files.
"""
