"""The arrays that training stores, so that the report needs no model."""

import json
from collections.abc import Mapping

import numpy as np

from experiments.data.images import ImageData
from experiments.files.reading import parse_json
from experiments.settings.grid import Run
from vae_jax.measure import Evaluation, Pictures

SHOWN = 32  # number of reconstructions, and of samples
MANIFOLD_SIDE = 10
WALKS = 8  # number of interpolations, and most latents that are traversed
STEPS = 7  # images of each, and of each class
CLASSES = 12  # most classes that are shown
# Of chains of latents: samplers with numbers of steps, and weights of guidance.
SAMPLERS_SHOWN = ("ancestral", "ddim", "heun")
SAMPLER_STEPS = (4, 16, 64, 256)
GUIDANCE_WEIGHTS = (0.0, 1.0, 2.0, 4.0)
_CLASS_NAMES = "class_names"


def to_store(
    run: Run,
    data: ImageData,
    evaluation: Evaluation,
    arrays: Pictures,
    floor: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the arrays of a run from which the report is drawn.

    Args:
        run: the run.
        data: the data set that the model was trained on.
        evaluation: arrays over the test images.
        arrays: the result of ``vae_jax.measure.draw``.
        floor: -log p(x) of the test images without latents, nats.

    Returns:
        Arrays by name. Over the test images, in their order: ``test/log_px``,
        ``test/elbo``, ``test/floor`` (nats in the likelihood's view),
        ``test/effective_sample_size``, ``test/posterior_mean``, and, if there are
        classes, ``test/labels``; if these have names, ``class_names`` (JSON in UTF-8).
        Of a model with classes, their labels, ``classes``, and log p(x|y) of each,
        ``test/log_px_y``.
        For pictures: ``picture/originals`` (integers below ``picture/levels``), the
        intensities of ``Pictures``, and the latents that are traversed.
    """
    estimate = evaluation.estimate
    model = run.settings.model
    has_plane = model.latent_dim == 2 and model.can_be_padded
    latents, drawn = None, arrays._asdict()
    if arrays.latents is not None:  # A padded model has more latents.
        latents = np.asarray(arrays.latents)[: model.latent_dim]
        drawn["traversals"] = drawn["traversals"][: len(latents) * STEPS]
    shown = {
        name: np.asarray(flat).reshape(-1, *data.image_shape)
        for name, flat in drawn.items()
        if name != "latents"
        and flat is not None
        and len(flat)
        and (name != "manifold" or has_plane)
    }
    stored = {
        "test/log_px": estimate.log_px,
        "test/elbo": estimate.elbo,
        "test/floor": floor,
        "test/effective_sample_size": estimate.effective_sample_size,
        "test/posterior_mean": evaluation.posterior_mean,
        "picture/originals": data.test.images[:SHOWN],
        "picture/levels": np.int32(data.levels),
        **{f"picture/{name}": images for name, images in shown.items()},
    }
    if latents is not None:
        stored["picture/traversed_latents"] = latents
    if data.test.labels is not None:
        stored["test/labels"] = data.test.labels
        if data.class_names:
            names = json.dumps(data.class_names).encode()
            stored[_CLASS_NAMES] = np.frombuffer(names, np.uint8)
    if model.condition_on:
        stored["classes"] = data.classes
    if evaluation.log_px_y is not None:
        stored["test/log_px_y"] = evaluation.log_px_y
    return {name: np.asarray(array) for name, array in stored.items()}


def class_names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the labels 0, 1, ...; none if a run stored none.

    Args:
        arrays: the arrays of a run, by name.

    Raises:
        ValueError: the stored names are no list of names.
    """
    if _CLASS_NAMES not in arrays:
        return []
    names = parse_json(arrays[_CLASS_NAMES].tobytes().decode())
    if not isinstance(names, list) or not all(isinstance(x, str) for x in names):
        raise ValueError(f"{_CLASS_NAMES} does not hold a list of names")
    return names
