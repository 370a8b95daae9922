"""The KL divergence against numbers worked out by hand, and its one use everywhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from inspector.kl import kl_by_position, kl_by_token, told

HALF = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
SKEWED = torch.tensor([[0.9, 0.1], [0.25, 0.75]]).log()


def test_the_divergence_of_a_typed_example_in_both_directions():
    first = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    other = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl_by_position(HALF, SKEWED).tolist() == pytest.approx([first, 0.0], abs=1e-6)
    assert kl_by_position(SKEWED, HALF).tolist() == pytest.approx([other, 0.0], abs=1e-6)
    assert float(kl_by_token(HALF, SKEWED)) == pytest.approx(first / 2, abs=1e-6)


def test_it_has_a_gradient_that_finite_differences_give():
    torch.manual_seed(0)
    first, second = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: kl_by_token(first.log_softmax(-1), s.log_softmax(-1)), (second,))


def test_a_divergence_that_rounding_takes_below_zero_has_its_gradient_too():
    """Next to the vanilla weights half of all positions are rounded below zero; cut there, they would not count."""
    torch.manual_seed(0)
    logits = torch.randn(200, 50)
    first, edited = logits.log_softmax(-1), (logits + 1e-4 * torch.randn(200, 50)).requires_grad_(True)
    found = kl_by_position(first, edited.log_softmax(-1))
    below = found < 0
    assert 20 < int(below.sum()) < 200
    found.sum().backward()
    expected = (edited.softmax(-1) - first.exp()).detach()
    assert torch.allclose(edited.grad, expected, atol=1e-6) and float(expected[below].abs().max()) > 1e-5


def test_what_is_told_is_never_below_zero_but_no_number_stays_none():
    assert told(torch.tensor(-1e-9)) == 0.0 and told(torch.tensor(0.25)) == 0.25
    assert math.isnan(told(torch.tensor(float("nan"))))


SPELLED = re.compile(
    r"kl_div\b|KLDivLoss|kl_divergence|rel_entr|stats import entropy|exp\(\)\s*\*\s*\(|torch\.exp\(\w+\)\s*\*\s*\("
    r"|softmax\([^()]*\)\s*\*\s*\(|\.log\(\)\s*-\s*[\w.]+\.log\(\)|\(\w+\s*/\s*\w+\)\.log\(\)|np\.log\(\w+\s*/"
)
"""Ways to write the divergence down."""


@pytest.mark.parametrize(
    "line",
    [
        "F.kl_div(q, p, log_target=True)",
        "nn.KLDivLoss()(q, p)",
        "torch.distributions.kl_divergence(p, q)",
        "rel_entr(p, q).sum()",
        "(first.exp() * (first - second)).sum()",
        "torch.exp(first) * (first - second)",
        "logits.softmax(dim=-1) * (first - second)",
        "p * (p.log() - q.log())",
        "p * (p / q).log()",
        "p * np.log(p / q)",
    ],
)
def test_each_way_to_spell_the_divergence_is_known(line):
    assert SPELLED.search(line)


def test_no_other_place_spells_the_divergence_out():
    root = Path(__file__).resolve().parents[2]
    rooms = ("inspector", "editing", "dashboard", "benchmarks")
    files = [path for room in rooms for path in (root / room).rglob("*.py")]
    found = sorted(path.name for path in files if SPELLED.search(path.read_text(encoding="utf-8")))
    assert found == ["kl.py", "planted_faults.py"], "and that of faults writes a wrong one on purpose"
