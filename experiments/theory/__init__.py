"""The theory of variational autoencoders, executed: one small program a claim."""
