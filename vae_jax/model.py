"""A variational autoencoder as a frozen description and pure functions of parameters.

The generative model is p(x, z) = p(z) p(x|z); the encoder gives q(z|x). Parameters are
a plain dictionary::

    {'encoder': ..., 'decoder': ..., 'shared': [shared_outputs],
     'posterior': ..., 'prior': ...}

'shared' holds the likelihood's parameters that all pixels have in common. 'posterior'
and 'prior' are empty for a diagonal Gaussian posterior and a standard normal prior.

With classes the model is p(x, z|y) = p(z) p(x|z, y), y the class of the image, and the
encoder gives q(z|x, y). A row x is then an image and its class, ``[D + 1]`` (see
``rows``), and every log p(x) in this library is log p(x|y). The decoder takes the class
as a one-hot vector before z; networks say how their encoders take it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from vae_jax import views
from vae_jax.checks import (
    Range,
    require_count,
    require_counts,
    require_declared,
    require_type,
)
from vae_jax.distributions import Posterior
from vae_jax.guidance import classifier_free
from vae_jax.likelihoods import Likelihood
from vae_jax.networks import NETWORKS, Identity, Network, Shape, side_by_side
from vae_jax.parts import Parts, require_chain
from vae_jax.posteriors import POSTERIORS, make_posterior
from vae_jax.priors import Prior, make_prior, priors_of
from vae_jax.registry import Registry, name_of, refuse_option
from vae_jax.rows import MOST_CLASSES
from vae_jax.samplers import Sampler

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class VAE(Parts):
    """A frozen description of a model; hashable, and static under ``jit``."""

    def init(
        self,
        key: jax.Array,
        pixel_mean: jax.Array,
        pixel_std: jax.Array,
        images: jax.Array | None = None,
    ) -> Params:
        """Returns fresh parameters; the decoder starts at the mean image of the data.

        Args:
            key: a typed key.
            pixel_mean: mean intensity of the training images, in [0, 1], ``[D]``.
            pixel_std: standard deviation of the intensity, ``[D]``.
            images: the training images, rows of integers, ``[N, D]``, for a prior that
                starts at some of them.
        """
        # The next two children of the key; the split below gives children 0 and 1.
        posterior_key, prior_key = (jax.random.fold_in(key, i) for i in (2, 3))
        encoder_key, decoder_key = jax.random.split(key)
        black = jnp.zeros((1, *pixel_mean.shape))
        y = [jnp.zeros((1, self.num_classes))] if self.num_classes else []
        encoder = self.encoder.init(encoder_key, black, *y)
        decoder_inputs = [jnp.zeros((1, self.num_classes + self.layer_dims[0]))]
        if self.is_autoregressive:
            decoder_inputs.append(black)
        decoder = self.decoder.init(decoder_key, *decoder_inputs)
        initial = self.likelihood.initial_outputs(pixel_mean, pixel_std)
        pixel_outputs = self.likelihood.pixel_outputs
        if not self.is_chain:
            decoder["params"]["bias"]["pixels"] = initial[:pixel_outputs]
        pixels = jnp.zeros((0, *pixel_mean.shape), jnp.uint8)
        if images is not None:
            pixels, _ = self.rows.split(images)
        own = {}
        if self.has_classifier:
            key = jax.random.fold_in(key, 4)
            own = {"classifier": self.classifier.init(key, black)["params"]}
        return own | {
            "encoder": encoder["params"],
            "decoder": decoder["params"],
            "shared": initial[pixel_outputs:].mean(axis=1),
            "posterior": self.posterior_family.init(posterior_key),
            "prior": self.prior_family.init(prior_key, pixels, self.likelihood.levels),
        }

    def encode(
        self, params: Params, x: jax.Array, latent_mask: jax.Array | None = None
    ) -> Posterior:
        """Returns q(z|x) of images.

        Args:
            params: the model's parameters, possibly zero-padded to more latents.
            x: rows in the likelihood's view, ``[batch, D]``.
            latent_mask: 1 for a latent in use and 0 for padding, ``[latent]``. For
                padding, q is the prior, and no gradient reaches its parameters. Without
                gradients, zero-padded parameters give the same result without a mask.
                It must be all 1 for a model that cannot be padded.
        """
        intensity = self._intensity(x)
        y = self.rows.one_hot(x, intensity.dtype)
        return self._encode_intensity(params, intensity, *y, latent_mask=latent_mask)

    def _intensity(self, x: jax.Array) -> jax.Array:
        (pixels, _), likelihood = self.rows.split(x), self.likelihood
        return views.to_intensity(likelihood.view, pixels, likelihood.levels)

    def _encode_intensity(
        self,
        params: Params,
        intensity: jax.Array,
        *y: jax.Array,
        latent_mask: jax.Array | None = None,
    ) -> Posterior:
        if self.ignore_x:
            intensity = jnp.zeros_like(intensity)
        outputs = self.encoder.apply({"params": params["encoder"]}, intensity, *y)
        if latent_mask is not None and self.can_be_padded:
            outputs = jax.tree.map(lambda out: out * latent_mask[None], outputs)
        return self.posterior_family.at(params, outputs)

    def classify(self, params: Params, x: jax.Array) -> jax.Array:
        """Returns log q(y|x) of every class y, ``[batch, K]``, without the rows' class.

        Args:
            params: the model's parameters.
            x: rows in the likelihood's view, ``[batch, D]``.
        """
        variables = {"params": params["classifier"]}
        outputs = self.classifier.apply(variables, self._intensity(x))
        log_q: jax.Array = jax.nn.log_softmax(outputs["class"])
        return log_q

    def prior(self, params: Params, x: jax.Array | None = None) -> Prior:
        """Returns p(z); only a chain of latents depends on the class.

        Args:
            params: the model's parameters.
            x: rows whose classes the chain is of, ``[batch, D + 1]``; None: it is of no
                class.
        """

        def encode(intensity: jax.Array) -> Posterior:
            # A prior's own images have no class: the encoder sees equal parts of all.
            shape = (*intensity.shape[:-1], self.num_classes)
            y = [jnp.full(shape, 1 / self.num_classes)] if self.num_classes else []
            return self._encode_intensity(params, intensity, *y)

        prior: Any = self.prior_family.at(params, encode)
        family: Any = self.prior_family
        if x is not None and not self.has_density and family.num_classes:
            prior = prior.given(*self.rows.one_hot(x, jnp.float32))
        found: Prior = prior
        return found

    def closed_form_kl(self, params: Params, posterior: Posterior) -> jax.Array:
        """Returns KL(q(z|x) || p(z)) in nats, ``[batch, terms]``.

        There is one term per latent for a diagonal posterior, and one for all latents
        for a full covariance.

        Raises:
            ValueError: the KL has no closed form.
        """
        if not self.has_closed_form_kl:
            raise ValueError(
                f"posterior is {self.name_of('posterior')}: with the prior "
                f"{self.name_of('prior')} it has no KL in closed form. Estimate it, as "
                "the objective 'elbo_log_weight' does."
            )
        prior: Any = self.prior(params)
        kl: jax.Array = prior.kl_from(posterior)
        return kl

    def decode(
        self, params: Params, z: jax.Array, x: jax.Array | None = None
    ) -> jax.Array:
        """Returns parameters of p(x|z), ``[..., outputs, D]``.

        The outputs of the decoder come first. The likelihood's shared parameters
        follow, repeated over pixels, so the density treats both in the same way.

        Args:
            params: the model's parameters.
            z: latents, ``[..., latent]``.
            x: rows in the likelihood's view, ``[..., D]``, with leading axes that
                broadcast against those of z. Their class is used if there are classes.
                Only an autoregressive decoder uses their pixels: the parameters of a
                pixel are then those of p(x_i | x_<i, z).

        Raises:
            ValueError: x is None, and the decoder is autoregressive or there are
                classes.
        """
        z = z[..., : self.layer_dims[0]] if len(self.layer_dims) > 1 else z
        if self.is_chain:
            family: Any = self.posterior_family
            return self.likelihood.readout(*family.read(z))
        if x is None and (self.is_autoregressive or self.num_classes):
            why = "the decoder is autoregressive"
            if not self.is_autoregressive:
                why = f"the model has {self.num_classes} classes"
            raise ValueError(
                f"x is None, but {why}: give it the images, or draw some with "
                "sample_images."
            )
        # The class comes first: the zeros that pad latents come last.
        y = () if x is None else self.rows.one_hot(x, z.dtype)
        inputs = [side_by_side(*y, z)]
        if x is not None and self.is_autoregressive:
            inputs.append(self._intensity(x))
        outputs: jax.Array = self.decoder.apply({"params": params["decoder"]}, *inputs)
        if not self.likelihood.shared_outputs:
            return outputs
        return _with_shared(outputs, params["shared"])

    def log_likelihood(self, params: Params, x: jax.Array, z: jax.Array) -> jax.Array:
        """Returns log p(x|z) in nats, summed over pixels, ``[samples, batch]``.

        Args:
            params: the model's parameters.
            x: rows in the likelihood's view, ``[batch, D]``.
            z: latents, ``[samples, batch, latent]``.
        """
        pixels, _ = self.rows.split(x)
        return self.likelihood.log_prob(self.decode(params, z, x[None]), pixels[None])

    def sample_images(
        self,
        params: Params,
        key: jax.Array,
        z: jax.Array,
        labels: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns images of given latents, and of given classes if there are any.

        Args:
            params: the model's parameters.
            key: a typed key.
            z: latents, ``[images, latent]``.
            labels: the class of each image, ``[images]``; None without classes.

        Returns:
            The mean of each pixel and a draw x ~ p(x|z), each ``[images, D]`` in the
            likelihood's view. The mean is E[x|z]. For an autoregressive decoder it is
            E[x_i | x_<i, z] at the drawn x; its expectation is E[x|z].
        """
        dtype = jnp.int32 if self.likelihood.view == "levels" else jnp.float32
        x = jnp.zeros((len(z), self.num_pixels), dtype)

        def outputs_of(x: jax.Array) -> jax.Array:
            return self.decode(params, z, self.rows.join(x, labels))

        if self.is_autoregressive:
            x = _draw_in_order(self.likelihood, key, outputs_of, x)
            return self.likelihood.mean(outputs_of(x)), x
        outputs = outputs_of(x)
        return self.likelihood.mean(outputs), self.likelihood.sample(key, outputs)

    def sample_latents(
        self,
        params: Params,
        key: jax.Array,
        num_samples: int,
        labels: jax.Array | None = None,
        sampler: Sampler | None = None,
        guidance: jax.Array | float | None = None,
    ) -> jax.Array:
        """Returns samples z ~ p(z), ``[num_samples, latent]``.

        Args:
            params: the model's parameters.
            key: a typed key.
            num_samples: number of samples.
            labels: the class of each, ``[num_samples]``; None without classes.
            sampler: of a chain of latents, its way from noise to z; None for its own,
                the model itself.
            guidance: of a chain of latents that can be guided, the weight of
                classifier-free guidance towards the classes; None without guidance.

        Raises:
            ValueError: a sampler or guidance of a model that does not allow it.
        """
        if self.has_density and (sampler is not None or guidance is not None):
            raise ValueError(
                f"prior is {self.name_of('prior')}: it is no chain of "
                "latents, which alone has samplers and guidance. Leave them out, or "
                "choose the prior 'diffusion'."
            )
        of_classes = self.rows.join(jnp.zeros((num_samples, self.num_pixels)), labels)
        prior: Any = self.prior(params, of_classes)
        if guidance is not None:
            prior = classifier_free(prior, guidance)
        sample = prior.sample if sampler is None else functools.partial(sampler, prior)
        z: jax.Array = sample(key, num_samples)
        return z

    def generate(
        self,
        params: Params,
        key: jax.Array,
        num_samples: int,
        labels: jax.Array | None = None,
        sampler: Sampler | None = None,
        guidance: jax.Array | float | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns ancestral samples: z ~ p(z), then x ~ p(x|z).

        Args:
            params: the model's parameters.
            key: a typed key.
            num_samples: number of images.
            labels: the class of each, ``[num_samples]``; if None and there are classes,
                all are drawn with equal probabilities.
            sampler: as in ``sample_latents``.
            guidance: as in ``sample_latents``.

        Returns:
            The mean of each pixel and a draw, each ``[num_samples, D]``, as in
            ``sample_images``.

        Raises:
            ValueError: as in ``sample_latents``.
        """
        latent_key, pixel_key = jax.random.split(key)
        if labels is None:
            # The next child of the key; the split above gives children 0 and 1.
            labels = self.rows.draw_labels(jax.random.fold_in(key, 2), num_samples)
        z = self.sample_latents(
            params, latent_key, num_samples, labels, sampler, guidance
        )
        return self.sample_images(params, pixel_key, z, labels)


def num_parameters(params: Params) -> int:
    """Returns the number of scalars in the parameters of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _with_shared(outputs: jax.Array, shared: jax.Array) -> jax.Array:
    """Returns outputs ``[..., outputs, D]`` followed by what all pixels share."""
    *leading, _, num_pixels = outputs.shape
    shared = jnp.broadcast_to(
        shared.reshape((1,) * len(leading) + (-1, 1)),
        (*leading, shared.size, num_pixels),
    )
    return jnp.concatenate([outputs, shared], axis=-2)


def _draw_in_order(
    likelihood: Likelihood,
    key: jax.Array,
    outputs_of: Callable[[jax.Array], jax.Array],
    x: jax.Array,
) -> jax.Array:
    """Draws each pixel of images given the pixels before it.

    Args:
        likelihood: of the pixels.
        key: a typed key; the place of each pixel is folded into it.
        outputs_of: the decoder's outputs, as a function of the pixels drawn so far.
        x: images to draw over, ``[images, D]``.
    """

    def add_pixel(i: jax.Array, x: jax.Array) -> jax.Array:
        own = jax.lax.dynamic_slice_in_dim(outputs_of(x), i, 1, axis=-1)
        pixel = likelihood.sample(jax.random.fold_in(key, i), own)
        return jax.lax.dynamic_update_slice_in_dim(x, pixel, i, axis=-1)

    drawn: jax.Array = jax.lax.fori_loop(0, x.shape[-1], add_pixel, x)
    return drawn


def make_vae(
    likelihood: Likelihood,
    *,
    image_shape: Shape,
    latent_dim: int,
    network: str | Network = "mlp",
    posterior: str = "diagonal",
    prior: str = "standard_normal",
    upper_layers: tuple[int, ...] = (),
    ignore_x: bool = False,
    num_classes: int = 0,
    has_classifier: bool = False,
    network_options: Mapping[str, Any] | None = None,
    posterior_options: Mapping[str, Any] | None = None,
    prior_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> VAE:
    """Returns a VAE from the names of its parts.

    Args:
        likelihood: p(x|z), from ``vae_jax.likelihoods``.
        image_shape: (height, width, channels).
        latent_dim: number of latents that the decoder sees, at least 1.
        network: a name in ``networks.NETWORKS``, or a network, which is used unchanged.
        posterior: a name in ``posteriors.POSTERIORS``.
        prior: a name in ``priors.PRIORS``; with several layers, the prior of the top
            layer.
        upper_layers: numbers of latents of further stochastic layers, upwards from the
            layer next to the images, for a hierarchical posterior.
        ignore_x: whether the posterior is one q(z) for all images. The ELBO remains a
            bound. It is highest if the decoder ignores z, so the model collapses. With
            classes there is one q(z|y) for all images of a class.
        num_classes: number of classes of a conditional model, p(x|z, y) and q(z|x, y),
            2 to 255; 0: the model has none.
        has_classifier: whether the model also has a classifier q(y|x), of the kind of
            the encoder, so that it can learn from images whose class is not known.
        network_options: options of the network only.
        posterior_options: options of the posterior only.
        prior_options: options of the prior only.
        **options: options of every one of the three parts that takes them, such as
            ``widths``, ``activation`` and ``precision``.

    Raises:
        ValueError: a value is not allowed, or no part takes an option.
    """
    require_type(
        "likelihood",
        likelihood,
        Likelihood,
        "one as make_likelihood('bernoulli', levels=2) is",
    )
    height, width, channels = require_counts("image_shape", image_shape, 3)
    require_count("latent_dim", latent_dim)
    layer_dims = (latent_dim, *require_counts("upper_layers", upper_layers))
    if ignore_x and prior == "vamp":
        raise ValueError(
            "prior is 'vamp': it is made of encoded images, which are all the same "
            "with ignore_x. Choose another prior, or leave ignore_x out."
        )
    for name, each in (
        ("network_options", network_options),
        ("posterior_options", posterior_options),
        ("prior_options", prior_options),
    ):
        if each is not None:
            require_type(name, each, Mapping, "options by name, as in {'widths': (8,)}")
    if isinstance(network, Network) and network_options:
        raise ValueError(
            f"network_options is {dict(network_options)}: {network} has its options "
            "already. Give them to it, or name the network in place of it."
        )
    named: list[tuple[Registry[Any], str, Mapping[str, Any] | None]] = [
        (POSTERIORS, posterior, posterior_options),
        (priors_of(prior, layer_dims), prior, prior_options),
    ]
    if not isinstance(network, Network):
        named.insert(0, (NETWORKS, network, network_options))
    known = [registry.options(name) for registry, name, _ in named]
    for takes, (registry, name, own) in zip(known, named, strict=True):
        for option, value in (own or {}).items():
            if option not in takes:
                refuse_option(option, value, [(registry, name)])
    for option, value in options.items():
        if not any(option in each for each in known):
            refuse_option(option, value, [part[:2] for part in named])
    *for_network, for_posterior, for_prior = (
        {name: options[name] for name in each if name in options} | dict(own or {})
        for each, (_, _, own) in zip(known, named, strict=True)
    )
    if not isinstance(network, Network):
        network = NETWORKS.make(network, **for_network[0])
    classes = Annotated[int, Range(at_least=2, at_most=MOST_CLASSES, other=0)]
    require_declared("num_classes", num_classes, classes)
    for name, switch in (("ignore_x", ignore_x), ("has_classifier", has_classifier)):
        require_type(name, switch, bool, "True or False")
    if num_classes and not network.takes_class:
        raise ValueError(
            f"num_classes is {num_classes}: the encoder of "
            f"{name_of(network, NETWORKS)} takes no class. Let it take one and declare "
            "takes_class, choose another network, or leave num_classes out."
        )
    if has_classifier and not num_classes:
        raise ValueError(
            "has_classifier is True: the model has no classes. Give num_classes, or "
            "leave has_classifier out."
        )
    if prior == "diffusion":
        for_prior["num_classes"] = num_classes
        if posterior == "noise":
            binary = likelihood.view == "binary"
            for_prior["levels"] = 2 if binary else likelihood.levels
            for_prior["latent_shape"] = image_shape
    model = VAE(
        network,
        (height, width, channels),
        likelihood,
        make_posterior(posterior, layer_dims, **for_posterior),
        make_prior(prior, layer_dims, **for_prior),
        layer_dims,
        ignore_x,
        num_classes,
        has_classifier,
    )
    if posterior == "noise" or isinstance(network, Identity):
        require_chain(model, posterior, prior)
    return model
