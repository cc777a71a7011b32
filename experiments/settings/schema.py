"""Settings: a configuration checked once, at the boundary, and frozen.

Each section is a dataclass: its docstring gives the meanings of the fields, and their
types the values that are allowed. docs/configuration.md is printed from both.
``configs/`` holds the values. Jitted code never sees a ConfigDict, and every value is
checked before anything is computed.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from experiments.data.settings import DataSettings
from experiments.messages.errors import SettingsError
from experiments.settings.options import KINDS, ForParts, Option, part_options
from experiments.settings.values import Options, convert, prefixed, refuse_unknown
from experiments.trackers.interface import DEFAULT, TRACKERS
from vae_jax import population
from vae_jax.checks import Count, CountOrZero, Range
from vae_jax.diffusion import NOISE_SCHEDULES, PREDICTIONS
from vae_jax.guidance import Weight
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, DENOISERS, NETWORKS, PRECISIONS
from vae_jax.objectives import OBJECTIVES
from vae_jax.posteriors import POSTERIORS
from vae_jax.priors import PRIORS
from vae_jax.priors.diffusion import WEIGHTINGS
from vae_jax.samplers import SAMPLERS, Sampler
from vae_jax.training import TrainingConfig, TrainingPlan

_NO_OPTIONS = Options()


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The parts of the model, and their options.

    Attributes:
        likelihood: p(x|z), the distribution of the pixels given the latents.
        latent_dim: number of latents that the decoder sees.
        network: the encoder and the decoder.
        widths: hidden units or channels of each layer of the encoder, from the image
            inwards; the decoder has them in reverse.
        activation: nonlinearity between layers.
        fixed_scale: standard deviation of the pixels, where black is 0 and white is 1.
        components: logistic distributions that are mixed at each pixel.
        ignore_x: whether the encoder ignores the image: q(z) in place of q(z|x), an
            example of a model that must collapse.
        posterior: the family of q(z|x).
        upper_layers: latents of further stochastic layers, from the images' upwards;
            only with the posteriors 'bottom_up' and 'ladder'.
        layer_widths: hidden units of each layer between two stochastic layers.
        prior: the family of p(z); of the top layer where there are several.
        prior_components: components of the prior: Gaussians, or the pseudo-inputs of a
            VampPrior.
        flow_steps: transformations of a flow, in posterior or prior.
        flow_widths: hidden units of each layer of a transformation.
        denoiser: the network that all layers of a chain of latents share.
        denoiser_widths: hidden units or channels of the denoiser's layers.
        predicts: what the denoiser's output is read as; 'levels' is the chance of each
            level of a pixel.
        noise_schedule: how -log SNR rises from the image to noise.
        noise_steps: steps of the chain; 0 for infinitely many.
        gamma_min: -log SNR of the latents next to the image.
        gamma_max: -log SNR of the last latents.
        preserves_variance: whether the latents keep the variance of the image;
            otherwise it explodes, which changes no probability of an image.
        label_dropout: share of the training images whose class the denoiser does not
            see.
        precision: the numbers that networks compute in; parameters are float32.
        rematerialize: whether encoder and decoder compute their layers again for the
            gradient, to save memory.
        condition_on: 'label' gives the class of an image to encoder and decoder, for
            p(x|z, y) and q(z|x, y): all log p(x) are then log p(x|y); '' for a model
            without classes.
        likelihood_options: options of the likelihood that have no field, by name.
        network_options: options of the network that have no field, by name.
        posterior_options: options of the posterior that have no field, by name.
        prior_options: options of the prior that have no field, by name.
    """

    likelihood: Annotated[str, LIKELIHOODS]
    latent_dim: Count
    network: Annotated[str, NETWORKS]
    widths: ForParts[tuple[Count, ...]]
    activation: Annotated[ForParts[str], ACTIVATIONS]
    fixed_scale: ForParts[float]
    components: Annotated[
        Count, Option(kinds=tuple(kind for kind in KINDS if kind != "prior"))
    ]
    ignore_x: bool
    posterior: Annotated[str, POSTERIORS]
    upper_layers: tuple[Count, ...]
    layer_widths: ForParts[tuple[Count, ...]]
    prior: Annotated[str, PRIORS]
    prior_components: Annotated[Count, Option("components", kinds=("prior",))]
    flow_steps: ForParts[Count]
    flow_widths: ForParts[tuple[Count, ...]]
    precision: Annotated[ForParts[str], PRECISIONS]
    rematerialize: ForParts[bool]
    denoiser: Annotated[ForParts[str], DENOISERS] = "mlp"
    denoiser_widths: ForParts[tuple[Count, ...]] = (256, 256)
    predicts: Annotated[ForParts[str], PREDICTIONS] = "velocity"
    noise_schedule: Annotated[ForParts[str], NOISE_SCHEDULES] = "linear"
    noise_steps: ForParts[int] = 0
    gamma_min: ForParts[float] = -8.0
    gamma_max: ForParts[float] = 5.0
    preserves_variance: ForParts[bool] = True
    label_dropout: ForParts[float] = 0.0
    condition_on: Annotated[str, ("", "label")] = ""
    likelihood_options: Options = _NO_OPTIONS
    network_options: Options = _NO_OPTIONS
    posterior_options: Options = _NO_OPTIONS
    prior_options: Options = _NO_OPTIONS

    def __post_init__(self) -> None:
        self.example  # noqa: B018  Building it checks the parts and their options.

    def build(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        num_classes: int = 0,
        has_classifier: bool = False,
    ) -> VAE:
        """Returns the model, for images of a shape and a number of levels.

        Args:
            image_shape: height, width and channels.
            levels: number of intensities.
            num_classes: classes of the images, for a model with ``condition_on``.
            has_classifier: whether the class of some images is not known.

        Raises:
            SettingsError: parts or options that the library refuses.
        """
        with prefixed("config.model."), self._named_options():
            model = _make_vae(self, image_shape, levels, num_classes)
        return dataclasses.replace(model, has_classifier=has_classifier)

    @contextlib.contextmanager
    def _named_options(self) -> Iterator[None]:
        """Adds to a refusal the field in which its option is given by name."""
        try:
            yield
        except ValueError as error:
            name = str(error).split(" ", 1)[0].split(".", 1)[0]
            for kind in _KINDS:
                if name in dict(getattr(self, f"{kind}_options")):
                    raise ValueError(f"{kind}_options.{error}") from error
            raise

    @property
    def example(self) -> VAE:
        """The model for images that are small enough for every network."""
        model, shape = self, (8, 8, 1)
        if self.posterior == "noise" and self.latent_dim != math.prod(shape):
            model = dataclasses.replace(self, latent_dim=math.prod(shape))
        return model.build(image_shape=shape, levels=2, num_classes=2)

    @property
    def can_be_padded(self) -> bool:
        """Whether models of different latent sizes can share a program."""
        return self.example.can_be_padded


_KINDS = "likelihood", "network", "posterior", "prior"


@functools.lru_cache(maxsize=1024)
def _make_vae(
    model: ModelSettings,
    image_shape: tuple[int, int, int],
    levels: int,
    num_classes: int,
) -> VAE:
    options = {kind: part_options(model, kind) for kind in _KINDS}
    return make_vae(
        LIKELIHOODS.make(model.likelihood, levels, **options["likelihood"]),
        image_shape=image_shape,
        latent_dim=model.latent_dim,
        network=model.network,
        posterior=model.posterior,
        prior=model.prior,
        upper_layers=model.upper_layers,
        ignore_x=model.ignore_x,
        num_classes=num_classes if model.condition_on else 0,
        network_options=options["network"],
        posterior_options=options["posterior"],
        prior_options=options["prior"],
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings(TrainingPlan):
    """How a model is trained.

    Attributes:
        objective: the bound on log p(x) that is maximised.
        num_samples: samples of q(z|x) per image.
        free_bits: nats of each latent's KL that cost nothing in training.
        capacity: a KL, in nats, that each image is drawn to in training.
        num_groups: groups that the samples of an image are split into; a divisor of
            num_samples.
        mixing: weight of the ELBO beside the importance-weighted bound.
        alpha: order of the Renyi divergence: 0 gives 'iwae', 1 the ELBO.
        partitions: points of the thermodynamic integral.
        mmd_weight: weight of the squared maximum mean discrepancy of q(z) from p(z).
        weighting: what the loss of a chain of latents is in training: the bound, or a
            mean over times of a squared error; never in measurements.
        objective_options: options of the objective that have no field, by name.
        beta: weight of the KL in training; never in measurements.
        learning_rate: step size of Adam, from which ``schedule`` starts.
    """

    objective: Annotated[str, OBJECTIVES] = "elbo"
    num_samples: ForParts[int] = 1
    free_bits: ForParts[float] = 0.0
    capacity: ForParts[float] = 0.0
    num_groups: ForParts[int] = 1
    mixing: ForParts[float] = 0.0
    alpha: ForParts[float] = 0.0
    partitions: ForParts[int] = 1
    mmd_weight: ForParts[float] = 0.0
    weighting: Annotated[ForParts[str], WEIGHTINGS] = "elbo"
    objective_options: Options = _NO_OPTIONS
    beta: Annotated[float, Range(at_least=0)] = 1.0
    # With a larger rate, a finite gradient could give a step that is not finite.
    learning_rate: Annotated[float, Range(above=0, at_most=1000)] = 1e-3

    def __post_init__(self) -> None:
        with prefixed("config.training."):
            super().__post_init__()
            self.config()

    def config(self) -> TrainingConfig:
        """Returns the configuration that the members of a program share."""
        names = (field.name for field in dataclasses.fields(TrainingPlan))
        options = part_options(self, "objective")
        return TrainingConfig(
            **{name: getattr(self, name) for name in names},
            objective=OBJECTIVES.make(self.objective, **options),
        )


@dataclasses.dataclass(frozen=True)
class DiagnosticsSettings:
    """The diagnostics that are computed of every model; columns of others are empty.

    Attributes:
        latents: whether the average KL is measured in parts.
        permutations: permutations of the two-sample test of q(z) against p(z); 0: no
            test.
        floor: whether a decoder without latents is fitted, for the verdict on collapse;
            not for a model with classes, whose decoder knows the class too.
        probes: whether labels, if there are any, are predicted from the latents.
    """

    latents: bool
    permutations: CountOrZero
    floor: bool
    probes: bool


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How log p(x) of test images is estimated, and chains of latents are sampled.

    Attributes:
        num_samples: importance samples per test image.
        chunk: samples that are decoded together.
        batch_size: images that are evaluated together.
        class_samples: importance samples per test image and class, for p(x) and p(y|x)
            of a model with classes; 0: they are not estimated.
        sampler: the way from noise to the samples in the report, of a model whose prior
            is a chain of latents.
        sampler_steps: steps of the sampler; 0 for those of the chain, or 256 if the
            chain has infinitely many.
        sampler_options: options of the sampler that have no field, by name.
        guidance: weight of classifier-free guidance towards the class of these samples,
            of a chain with ``label_dropout``; 1: none.
    """

    num_samples: Count
    chunk: Count
    batch_size: Count
    class_samples: CountOrZero = 50
    sampler: Annotated[str, SAMPLERS] = "ancestral"
    sampler_steps: Annotated[CountOrZero, Option("steps", kinds=("sampler",))] = 0
    sampler_options: Options = _NO_OPTIONS
    guidance: Weight = 1.0

    def __post_init__(self) -> None:
        with prefixed("config.evaluation."):
            self.build_sampler()

    def build_sampler(self) -> Sampler:
        """Returns the sampler with its options."""
        return SAMPLERS.make(self.sampler, **part_options(self, "sampler"))


@dataclasses.dataclass(frozen=True)
class ParallelSettings:
    """How models and images are spread over devices; it changes numbers by rounding.

    Attributes:
        member_execution: how the models of a program are computed on a device: 'map'
            vectorizes over them, 'loop' computes one after another, 'auto' chooses by
            their size.
        members: groups of devices that models are split over; 0: all devices.
        batch: devices that share the images of each batch; a divisor of
            training.batch_size.
        memory_gib: memory, in GiB, that a program may take on each device; 0: most of
            the memory of the device.
        compile_ahead: whether the next program compiles while one trains. False where
            that slows training, as where compilation measures programs on the same GPU.
        lanes: groups of models that train at the same time on a CPU; 0: as many as it
            has cores. It changes no number.
    """

    member_execution: Annotated[str, ("auto", *population.EXECUTIONS)]
    members: CountOrZero
    batch: Count
    memory_gib: Annotated[float, Range(at_least=0)]
    compile_ahead: bool = True
    lanes: CountOrZero = 0


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When the state of a training is saved, besides when it ends or is stopped.

    Attributes:
        every_epochs: epochs between two checkpoints; 0: by time alone.
        every_seconds: seconds between two checkpoints; 0: by epochs alone.
        keep: checkpoints that are kept, in case the last one is damaged.
    """

    every_epochs: CountOrZero
    every_seconds: Annotated[float, Range(at_least=0)]
    keep: Count


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        seed: selects all random numbers: initial parameters, batches and noise.
        trackers: where metrics are shown while models train; no result depends on it.
    """

    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)]
    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    parallel: ParallelSettings
    checkpoint: CheckpointSettings
    diagnostics: DiagnosticsSettings
    trackers: tuple[Annotated[str, TRACKERS], ...] = DEFAULT

    def __post_init__(self) -> None:
        batch_size, devices = self.training.batch_size, self.parallel.batch
        if batch_size % devices:
            why = f"it is not a multiple of config.parallel.batch, {devices}"
            raise SettingsError.of(
                "config.training.batch_size", batch_size, why, "Change one of them"
            )
        if self.has_classifier and not self.model.condition_on:
            why, count = "the model has no classes", self.data.labelled_per_class
            remedy = "Set config.model.condition_on to 'label', or leave it at -1"
            name = "config.data.labelled_per_class"
            raise SettingsError.of(name, count, why, remedy)
        _check_objective(self.model, self.training, self.has_classifier)

    @property
    def has_classifier(self) -> bool:
        """Whether the class of some training images is not known."""
        return self.data.labelled_per_class != -1


@functools.lru_cache
def _check_objective(
    model: ModelSettings, training: TrainingSettings, has_classifier: bool
) -> None:
    """Refuses an objective that a model does not allow."""
    objective = training.config().objective
    can_classify = model.example.has_density
    if objective.infers_classes and can_classify and not has_classifier:
        name, why = "config.training.objective", "the model has no classifier"
        remedy = (
            "Set config.model.condition_on to 'label' and "
            "config.data.labelled_per_class, as in 10, or choose another objective"
        )
        raise SettingsError.of(name, training.objective, why, remedy)
    try:
        objective.check(
            dataclasses.replace(model.example, has_classifier=has_classifier)
        )
    except ValueError as error:
        raise SettingsError(f"config.training.{error}") from error


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """Returns the types of a section's fields, in their order."""
    return {field.name: field.type for field in dataclasses.fields(cls)}


def build(mapping: Any, cls: Any, path: str) -> Any:
    """Returns the settings of a mapping, or one section of them.

    Args:
        mapping: its fields; or the section itself.
        cls: the class of the section.
        path: its name, as 'config.model'.

    Raises:
        SettingsError: a field that is unknown, missing, of another type or out of
            range.
    """
    if isinstance(mapping, cls):
        return mapping
    if not isinstance(mapping, Mapping):
        given = "missing" if mapping is None else repr(mapping)
        raise SettingsError(f"{path} is {given}: it must be a group of fields.")
    hints = field_types(cls)
    refuse_unknown(mapping, hints, f"{path}.")
    values = {}
    for name, hint in hints.items():
        make = build if dataclasses.is_dataclass(hint) else convert
        if name in mapping:
            values[name] = make(mapping[name], hint, f"{path}.{name}")
        elif hint is not Options:
            raise SettingsError(f"{path}.{name} is missing: give it a value.")
    return cls(**values)
