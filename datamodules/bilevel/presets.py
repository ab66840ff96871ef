"""Presets of differentiable instruction optimization: choices in which the paper and its released program differ.

=================================  =======================  ==========================  =================
choice                             ``paper``                ``released_code``           ``fast``
=================================  =======================  ==========================  =================
outer step                         after the K-th theta     before it                   after
inner batch of the hypergradient   fresh                    that of the inner step      fresh
outer batch                        8                        8                           8
M, gamma of the series             1, 1e-5                  1, 1e-5                     0, 2e-5
dropout masks of the passes        the same                 others for v                the same
horizon of phi's schedule          phi's steps              theta's steps               phi's steps
clipping at 1.0                    theta                    theta and phi jointly, phi  theta
padding of a chosen exemplar       masked                   attended                    masked
columns reserved                   the instruction's        128                         the instruction's
part kept of a long text           end                      beginning                   end
an instance as its own exemplar    never                    possible                    never
=================================  =======================  ==========================  =================

``paper`` follows arXiv 2306.10098, and makes the sound choice where the paper leaves one open. All three never reset
theta, keep gamma as a factor of the whole series, include the target in z (Eq. 4), and use Adam. ``fast`` omits
the Hessian: at gamma = 1e-5 the paper's series of two terms equals 2e-5 v to three digits or better. The other two
compute Hessian products if they change the direction by more than the module's ``outer.negligible``, 1e-3, which is
measured at every search for the radius of the finite differences; 0 always computes them.
"""

from typing import Any, Literal, NamedTuple

Preset = Literal["paper", "released_code", "fast"]


class Choices(NamedTuple):
    """Choices in which the paper on instruction optimization and its released program differ; defaults are the paper's.

    Theta are the model's weights, trained by inner steps; phi are the instruction's, trained by outer steps.

    Args:
        outer_step: Whether the outer step comes ``after`` or ``before`` the K-th inner step of each period of K.
        curvature_batch: Inner instances by which the hypergradient differentiates the inner loss: ``fresh`` draws
            `outer_rows` others, ``step`` uses the batch of the inner step.
        outer_rows: Instances of an outer batch, over all replicas.
        hessian_products: Number of Hessian products, M; the Neumann series has M + 1 terms.
        gamma: Step size of the Neumann series, which multiplies the whole series.
        rng: Whether the outer pass has the ``same`` dropout masks as the inner passes, or ``independent`` ones.
        outer_horizon: Steps over which phi's learning rate falls to 0: ``outer_steps``, all outer steps, or
            ``inner_steps``, the number of inner steps, of which phi reaches only one in K.
        clipping: ``theta`` clips theta's gradients at theta's steps. ``joint`` clips them by the norm of theta's and
            phi's gradients together, and phi's gradients at phi's steps.
        exemplar_padding: Whether padding after a chosen exemplar is ``masked`` or ``attended``.
        reserve: Columns of an inner row that are kept free for the instruction; None for the instruction's length.
        keep_end: Whether a source that is too long keeps its end, with the question, or its beginning.
        exclude_self: Whether an instance is never among its own exemplars.
    """

    outer_step: Literal["after", "before"] = "after"
    curvature_batch: Literal["fresh", "step"] = "fresh"
    outer_rows: int = 8
    hessian_products: int = 1
    gamma: float = 1e-5
    rng: Literal["same", "independent"] = "same"
    outer_horizon: Literal["outer_steps", "inner_steps"] = "outer_steps"
    clipping: Literal["theta", "joint"] = "theta"
    exemplar_padding: Literal["masked", "attended"] = "masked"
    reserve: int | None = None
    keep_end: bool = True
    exclude_self: bool = True


PAPER = Choices()
PRESETS: dict[Preset, Choices] = {
    "paper": PAPER,
    "released_code": Choices(
        outer_step="before",
        curvature_batch="step",
        rng="independent",
        outer_horizon="inner_steps",
        clipping="joint",
        exemplar_padding="attended",
        reserve=128,
        keep_end=False,
        exclude_self=False,
    ),
    "fast": PAPER._replace(hessian_products=0, gamma=2e-5),
}


def choices(preset: Preset, **overrides: Any) -> Choices:
    """Return the choices of a preset, with those that a user sets instead.

    Args:
        preset: ``paper``, ``released_code``, or ``fast``, which is the paper's without Hessian products.
        overrides: Fields of ``Choices`` with the user's values; None keeps the preset's value.

    Raises:
        ValueError: There is no such preset.

    >>> choices("fast", gamma=None, outer_rows=4).outer_rows
    4
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    return PRESETS[preset]._replace(**{name: value for name, value in overrides.items() if value is not None})
