"""Command lines and all input and output of vae_jax."""
