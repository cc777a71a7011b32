"""The arrays that training stores of a run: pictures and comparisons need no model."""

import json

import numpy as np

from experiments.data.images import ImageData
from experiments.settings.grid import Run
from vae_jax.measure import Evaluation, Pictures

SHOWN = 32  # reconstructions, and samples
MANIFOLD_SIDE = 10
CLASS_NAMES = "class_names"


def to_store(
    run: Run,
    data: ImageData,
    evaluation: Evaluation,
    arrays: Pictures,
    floor: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns what is stored of a run, for pictures and comparisons to need no model.

    Args:
        run: the run.
        data: the data set the model was trained on.
        evaluation: arrays over the test images.
        arrays: what ``vae_jax.measure.draw`` computed.
        floor: -log p(x) of the test images without latents, nats.

    Returns:
        By name, over the test images in their order: ``test/log_px``, ``test/elbo``,
        ``test/floor`` (nats in the likelihood's view), ``test/effective_sample_size``,
        ``test/posterior_mean``, and ``test/labels`` where there are any, with
        ``class_names`` (their names, as JSON in UTF-8) if they have some; of pictures,
        ``picture/originals`` (integers below ``picture/levels``) and the intensities
        of ``Pictures``.
    """
    estimate = evaluation.estimate
    model = run.settings.model
    has_plane = model.latent_dim == 2 and model.can_be_padded
    shown = {
        name: np.asarray(flat).reshape(-1, *data.image_shape)
        for name, flat in arrays._asdict().items()
        if name != "manifold" or has_plane
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
    if data.test.labels is not None:
        stored["test/labels"] = data.test.labels
        if data.class_names:
            names = json.dumps(data.class_names).encode()
            stored[CLASS_NAMES] = np.frombuffer(names, np.uint8)
    return {name: np.asarray(array) for name, array in stored.items()}
