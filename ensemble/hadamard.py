"""Hadamard matrices, and rotations after which all channels vary alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(n: int) -> Tensor | None:
    """An orthonormal Hadamard matrix (n, n) in float64, all entries ±1/√n: by Sylvester's doubling of Paley's two
    constructions.

    Paley I gives n = q + 1 for primes q ≡ 3 mod 4, Paley II n = 2(q + 1) for primes q ≡ 1 mod 4. So there is one for
    every power of two, and for
    most lengths of an embedding: 192, 320, 384, 640, 768, 1024, 1152, 1280, 1536, 1664 …

    Args:
        n: Its side.

    Returns:
        The matrix, or None where these constructions give none.

    Example:
        >>> hadamard(2)
        tensor([[ 0.7071,  0.7071],
                [ 0.7071, -0.7071]], dtype=torch.float64)
        >>> matrix = hadamard(12)
        >>> torch.allclose(matrix @ matrix.T, torch.eye(12).double())
        True
        >>> hadamard(30) is None
        True
    """
    signs = _signs(n)
    return None if signs is None else signs / math.sqrt(n)


def equal_diagonal_rotation(eigenvalues: Tensor) -> Tensor:
    """An orthogonal R for which R diag(λ) Rᵀ has one value, the mean of λ, all along its diagonal (PHI-S: Ranzinger et
    al., 2024).

    A Hadamard matrix does it whatever λ is; where none is known, at most D − 1 Givens rotations are made for these λ.

    Args:
        eigenvalues: λ, (D,).

    Shape:
        - returns (D, D) float64.

    Example:
        >>> values = torch.tensor([5.0, 1.0, 0.0])
        >>> rotation = equal_diagonal_rotation(values)
        >>> (rotation @ values.double().diag() @ rotation.T).diagonal()
        tensor([2.0000, 2.0000, 2.0000], dtype=torch.float64)
    """
    matrix = hadamard(len(eigenvalues))
    return (_by_givens(eigenvalues.double().cpu()) if matrix is None else matrix).to(eigenvalues.device)


def _signs(n: int) -> Tensor | None:
    """The same, with entries ±1."""
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if n == 2 or n % 4 == 0:
        half = _signs(n // 2)
        if half is not None:
            return torch.kron(torch.tensor([[1, 1], [1, -1]], dtype=torch.float64), half)
    if n % 4 == 0 and _is_prime(n - 1):
        return torch.eye(n, dtype=torch.float64) + _bordered(n - 1, -1)
    if n % 8 == 4 and _is_prime(n // 2 - 1):
        conference, eye = _bordered(n // 2 - 1, 1), torch.eye(n // 2, dtype=torch.float64)
        plus, minus = (torch.tensor(signs, dtype=torch.float64) for signs in ([[1, 1], [1, -1]], [[1, -1], [-1, -1]]))
        return torch.kron(conference, plus) + torch.kron(eye, minus)
    return None


def _bordered(q: int, corner: int) -> Tensor:
    """(q + 1, q + 1): χ(i − j) for the quadratic character of a prime q, with a first row of ones and a first column of
    ``corner``.
    """
    residues = torch.arange(q)
    character = torch.full((q,), -1.0, dtype=torch.float64)
    character[residues.square() % q] = 1.0
    character[0] = 0.0
    bordered = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    bordered[0, 1:], bordered[1:, 0] = 1.0, float(corner)
    bordered[1:, 1:] = character[(residues[:, None] - residues) % q]
    return bordered


def _is_prime(q: int) -> bool:
    return q > 1 and all(q % factor for factor in range(2, math.isqrt(q) + 1))


def _by_givens(eigenvalues: Tensor) -> Tensor:
    """Turn the largest and the smallest entry of the diagonal until one of them is the mean, which sets it; then go on
    with the others.
    """
    matrix, rotation, mean = (
        eigenvalues.diag(),
        torch.eye(len(eigenvalues), dtype=torch.float64),
        float(eigenvalues.mean()),
    )
    left = list(range(len(eigenvalues)))
    while len(left) > 1:
        diagonal = matrix.diagonal()[left]
        low, high = left[int(diagonal.argmin())], left[int(diagonal.argmax())]
        below, above, off = float(matrix[low, low]) - mean, float(matrix[high, high]) - mean, float(matrix[low, high])
        # The mean lies between the two, so there is an angle; none is left to turn where the entries differ by rounding
        # alone.
        if above <= 0 or below >= 0:
            break
        # Of below + 2t·off + t²·above = 0 the root without cancellation, t = tan of the angle.
        root = math.sqrt(off * off - below * above)
        tangent = -(off + math.copysign(root, off)) / above if off else root / above
        cosine = 1 / math.hypot(1, tangent)
        givens = torch.tensor([[cosine, cosine * tangent], [-cosine * tangent, cosine]], dtype=torch.float64)
        pair = [low, high]
        matrix[pair] = givens @ matrix[pair]
        matrix[:, pair] = matrix[:, pair] @ givens.T
        rotation[pair] = givens @ rotation[pair]
        left.remove(low)
    return rotation
