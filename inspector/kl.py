"""The KL divergence of next-token distributions, as every edit, vital sign and score means it.

One definition: at each counted position KL(P to Q) = sum over the vocabulary of p (log p - log q), in nats. What
differs is named where it is used: which of vanilla and edited is P, which positions count (the tokens of an answer, or
one next token), and what the mean is over: all tokens alike
(:func:`kl_by_token`), or prompts alike where their own means are averaged.
"""

from __future__ import annotations

from torch import Tensor


def kl_by_position(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(first to second) at each position, nats ``[...]``; not cut at zero, so that it has a gradient.

    Args:
        first: Log-probabilities ``[..., vocabulary]`` of P.
        second: Log-probabilities ``[..., vocabulary]`` of Q.
    """
    return (first.exp() * (first - second)).sum(dim=-1)


def kl_by_token(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of :func:`kl_by_position` over all positions: nats a token, every token with the same weight."""
    return kl_by_position(first, second).mean()


def not_negative(value: Tensor) -> Tensor:
    """Return a KL without its gradient, rounding below zero cut off; not-a-number stays. It stays on its device."""
    return value.detach().clamp(min=0)


def told(value: Tensor) -> float:
    """Return a KL for people and stops: :func:`not_negative`, read."""
    return float(not_negative(value))
