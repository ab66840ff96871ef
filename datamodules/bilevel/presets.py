"""Presets of differentiable instruction optimization: where the paper and the program released with it differ.

=================================  =======================  ==========================  =================
choice                             ``paper``                ``released_code``           ``fast``
=================================  =======================  ==========================  =================
outer step                         after the K-th theta     before it                   after
inner batch of the hypergradient   a fresh one              that of the theta step      fresh
outer batch                        8                        8                           8
M, gamma of the series             1, 1e-5                  1, 1e-5                     0, 2e-5
masks of the passes                the same                 of their own for v          the same
horizon of phi's schedule          phi's own steps          theta's steps               phi's own steps
clipping at 1.0                    theta alone              theta with phi, phi         theta alone
padding of a chosen exemplar       masked                   attended                    masked
columns kept free of text          the instruction's        128                         the instruction's
end of a long text that is kept    the last                 the first                   the last
an instance as its own exemplar    never                    possible                    never
=================================  =======================  ==========================  =================

``paper`` follows the text of arXiv 2306.10098, and where it says nothing what is sound. All three carry theta on from
cycle to cycle, keep gamma as a factor of the whole series, show the target inside z (Eq. 4), and take Adam. ``fast``
leaves the Hessian out: at gamma = 1e-5 the paper's series of two terms is 2e-5 v to three digits or better. The other
two compute it where it changes more than the module's ``outer.negligible``, 1e-3, which is asked anew at every search
for the radius of the finite differences; 0 computes it always.
"""

from typing import Any, Literal, NamedTuple

Preset = Literal["paper", "released_code", "fast"]


class Choices(NamedTuple):
    """One value for each row of the table above.

    Args:
        outer_step: When phi moves: ``after`` the K-th theta step of a period, or ``before`` it.
        curvature_batch: The inner batch of the hypergradient: a ``fresh`` one of the outer batch's size, or that of
            the theta ``step`` it stands beside.
        outer_rows: Instances of an outer batch, over all replicas.
        hessian_products: M, the series' terms less one.
        gamma: The series' step, a factor of all of it.
        rng: Whether the outer pass drops the ``same`` units as the inner passes, or ``independent`` ones.
        outer_horizon: Steps in which phi's learning rate falls to 0: phi's own (``outer_steps``) or theta's
            (``inner_steps``), of which phi takes only one in K.
        clipping: ``theta`` alone at its own steps, or ``joint``: theta's by the norm of both levels' gradients, and
            phi at its steps.
        exemplar_padding: Whether padding behind a chosen exemplar is ``masked`` or ``attended``.
        reserve: Columns of a row that the text leaves free; None for as many as the instruction has.
        keep_end: Whether a source that is too long keeps its end, where the question stands, or its beginning.
        exclude_self: Whether an instance is kept from being its own exemplar.
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
    """A preset with the choices that are not None in place of its own.

    >>> choices("fast", gamma=None, outer_rows=4)[2:5]
    (4, 0, 2e-05)
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    return PRESETS[preset]._replace(**{name: value for name, value in overrides.items() if value is not None})
