"""Quadratic losses of two levels, whose hypergradient is known for every inverse of the Hessian."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

close = partial(assert_close, rtol=0)


class Quadratic(NamedTuple):
    """inner = t'Ht/2 + t'B phi with t = theta flattened, outer = |t - target|^2/2 + direct'phi."""

    H: Tensor
    B: Tensor
    target: Tensor
    direct: Tensor
    theta: list[Parameter]
    phi: list[Parameter]

    def flat(self) -> Tensor:
        return torch.cat([parameter.reshape(-1) for parameter in self.theta])

    def inner(self) -> Tensor:
        t = self.flat()
        return t @ self.H @ t / 2 + t @ self.B @ self.phi[0]

    def outer(self) -> Tensor:
        return (self.flat() - self.target).square().sum() / 2 + self.direct @ self.phi[0]

    def v(self) -> Tensor:
        return self.flat().detach() - self.target

    def answer(self, inverse: Tensor) -> Tensor:
        """Return the hypergradient, direct - B' inverse v, for an inverse of the Hessian."""
        return self.direct - self.B.T @ inverse @ self.v()


def quadratic(eigenvalues: list[float]) -> Quadratic:
    torch.manual_seed(0)
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    draw = partial(torch.randn, dtype=torch.float64)
    theta = [Parameter(draw(2, 2)), Parameter(draw(n - 4))]
    return Quadratic(
        H=basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T,
        B=draw(n, 3),
        target=draw(n),
        direct=draw(3),
        theta=theta,
        phi=[Parameter(draw(3))],
    )


POSITIVE = [0.5, 0.8, 1.0, 1.3, 1.7, 2.0]
