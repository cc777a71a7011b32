"""The first hour on an accelerator: right before fast, then every claim on speed.

    python -m benchmarks.accelerator

It needs ``vae_jax``, JAX, Flax, optax, NumPy and absl, and no network. Each part is a
module with TITLE, ABOUT and two functions. ``measure(setting, record)`` measures its
pieces one by one and keeps the facts of each in a JSON file. ``section(pieces)`` writes
them as a section of docs/accelerator.md.

    records    the facts of a part, kept piece by piece; the time of a call
    setting    the device, the images, and the sizes of everything
    programs   compiled epochs: their times, and the memory of the device
    exact      closed forms, the same numbers as on the CPU, the same bits twice
    traps      places where an accelerator may be slow or wrong without a message
    one_model  one model beside torch, torch.compile and plain JAX
    members    1 to 256 members in one program
    burda      Table 1 of Burda et al. 2016, one layer
    evidence   annealed and two-sided bounds on the test set
    page       docs/accelerator.md
"""
