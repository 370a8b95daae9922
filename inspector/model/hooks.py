"""Hooks as context managers, so that none can outlive the measurement that set it.

- :func:`observe_outputs` calls back with the output of each module.
- :func:`observe_inputs` calls back with the first input of each module.
- :func:`record_calls` keeps the arguments that each module was called with.
- :func:`rewrite_output` replaces the output of one module.
- :func:`stopping_before` ends a forward pass where the rest of it is not needed.
- :func:`passing_through` skips what blocks compute, where only what they are called with is needed.

Modules are any sequence; callbacks get the position in that sequence. Blocks return a tensor or a
tuple whose first entry is the residual stream, which :func:`block_output` hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn


class StopForward(Exception):
    """Ends a forward pass early; caught by :func:`stopping_before`, never seen by a caller."""


def block_output(output: Any) -> Tensor:
    """Return the residual stream from what a block returned (a tensor, or a tuple that starts with it)."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def observe_outputs(modules: Sequence[nn.Module], callback: Callable[[int, Tensor], Any]) -> Iterator[None]:
    """Call ``callback(position, output)`` after each module has run."""

    def hook_for(position: int):
        def hook(_module, _args, output):
            callback(position, block_output(output))

        return hook

    with ExitStack() as stack:
        for position, module in enumerate(modules):
            stack.callback(module.register_forward_hook(hook_for(position)).remove)
        yield


@contextmanager
def observe_inputs(modules: Sequence[nn.Module], callback: Callable[[int, Tensor], Any]) -> Iterator[None]:
    """Call ``callback(position, first input)`` before each module runs."""

    def hook_for(position: int):
        def hook(_module, args, kwargs):
            callback(position, args[0] if args else kwargs["hidden_states"])

        return hook

    with ExitStack() as stack:
        for position, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(hook_for(position), with_kwargs=True).remove)
        yield


@contextmanager
def record_calls(modules: Sequence[nn.Module]) -> Iterator[dict[int, tuple[tuple, dict]]]:
    """Yield a dictionary that fills with ``position -> (args, kwargs)`` of each module's last call."""
    calls: dict[int, tuple[tuple, dict]] = {}

    def hook_for(position: int):
        def hook(_module, args, kwargs):
            calls[position] = (args, dict(kwargs))

        return hook

    with ExitStack() as stack:
        for position, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(hook_for(position), with_kwargs=True).remove)
        yield calls


@contextmanager
def rewrite_output(module: nn.Module, rewrite: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of a module by ``rewrite(first input, output)``."""

    def hook(_module, args, output):
        return rewrite(args[0], output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def stopping_before(module: nn.Module, callback: Callable[[Tensor], Any] | None = None) -> Iterator[None]:
    """Skip everything from ``module`` on; ``callback`` gets the first input that it would have had."""

    def hook(_module, args):
        if callback is not None:
            callback(args[0])
        raise StopForward

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    except StopForward:
        pass
    finally:
        handle.remove()


@contextmanager
def passing_through(blocks: Sequence[nn.Module], below: nn.Module) -> Iterator[None]:
    """Let blocks return the states that they get, in the form in which the block below them returns its own.

    Hooks that a block has run as ever; offloaded weights are not fetched.

    Args:
        blocks: Blocks that follow each other.
        below: The block before them.
    """
    form: list[Any] = []

    def passed(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *form[-1][1:]) if isinstance(form[-1], tuple) else states

    with ExitStack() as stack:
        if blocks:
            stack.callback(below.register_forward_hook(lambda _module, _args, output: form.append(output)).remove)
        for block in blocks:
            stack.enter_context(patch.object(block, "forward", passed))
        yield
