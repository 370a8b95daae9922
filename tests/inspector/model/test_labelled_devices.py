"""The tests' own devices fail where real ones fail: else the tests of sharded models would say nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from labelled_devices import CPU, FIRST, SECOND, MixedDevicesError, label, labelled_devices


@pytest.fixture(autouse=True)
def devices():
    with labelled_devices():
        yield


def test_two_devices_in_one_function_fail_whatever_the_function():
    one, two, here = torch.ones(2, 2, device=FIRST), torch.ones(2, 2, device=SECOND), torch.ones(2, 2)
    for mix in (
        lambda: one + two,
        lambda: one @ here,
        lambda: torch.cat([one, two]),
        lambda: torch.stack([one, here]),
        lambda: F.linear(one, two),
        lambda: F.cross_entropy(one, torch.tensor([0, 1])),
        lambda: one.gather(1, torch.zeros(2, 1, dtype=torch.long)),
        lambda: one.add_(two),
        lambda: one[torch.tensor([0], device=SECOND)],
        lambda: torch.where(one > 0, two, one),
    ):
        with pytest.raises(MixedDevicesError):
            mix()


def test_what_real_devices_allow_is_allowed_and_lies_where_it_would():
    one, two = torch.ones(2, 2, device=FIRST), torch.ones(2, 2, device=SECOND)
    assert label(one + torch.tensor(3.0)) == FIRST  # a number on the CPU
    assert label(one[torch.tensor([1])]) == FIRST and label(one[:, [0]]) == FIRST
    assert label(one.copy_(two)) == FIRST and label(one.type_as(two)) == SECOND
    assert label(two.to(one)) == FIRST and label(one.to("cuda:1", torch.float64)) == SECOND
    assert label(one.cpu()) == CPU and one.cpu().numpy().sum() == 4
    assert label(one.new_zeros(3)) == FIRST and label(torch.zeros_like(two, device="cpu")) == CPU
    assert one.T.device == FIRST and two.is_cuda and float(one.sum()) == 4
    assert label(one.topk(1).indices) == FIRST and label(torch.nn.Parameter(two)) == SECOND
    with pytest.raises(TypeError, match="numpy"):
        one.numpy()


def test_a_transfer_is_a_copy_with_a_gradient_on_each_side():
    one = torch.ones(2, device=FIRST, requires_grad=True)
    there = one.to(SECOND)
    assert there.data_ptr() != one.data_ptr() and one.to(FIRST) is one
    (there * torch.tensor([1.0, 2.0], device=SECOND)).sum().backward()
    assert label(one.grad) == FIRST and one.grad.tolist() == [1, 2]
    (found,) = torch.autograd.grad(one.to(SECOND).sum(), [one])
    assert label(found) == FIRST
