"""The explorer: trained latent spaces in one page, computed by the page itself.

The page runs the functions of the models, not copies of them: JAX traces each function
to a list of operations (``programs``), and a small script executes the list
(``engine.js``).
"""
