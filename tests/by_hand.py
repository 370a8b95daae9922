"""What tests compare with: plain computations that use no code of the engine but its dataclasses."""

from __future__ import annotations

import copy
import hashlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tiny_models import SUFFIX
from torch import Tensor

from inspector.model import VANILLA, Delta, InspectedModel, Patch, Row

DOWN_PROJECTIONS = {"gpt2": "mlp.c_proj", "gpt_neox": "mlp.dense_4h_to_h", "opt": "fc2"}
BLOCKS = {
    "gemma3": "model.language_model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}


@contextmanager
def crashing(module: Any, call: int, error: type[Exception]) -> Iterator[None]:
    """Let a module raise an error when it is called for the so-manieth time, copies of it as well."""
    count = itertools.count(1)

    def crash(_module: Any, _args: Any) -> None:
        if next(count) == call:
            raise error

    handle = module.register_forward_pre_hook(crash)
    try:
        yield
    finally:
        handle.remove()


def checksum(network: Any) -> str:
    """Return the SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hooks(network: Any) -> dict[str, tuple[int, ...]]:
    """Return the ids of all hooks by module; transformers itself sets some for good when it loads."""
    found = {}
    for name, module in network.named_modules():
        ids = tuple(module._forward_hooks) + tuple(module._forward_pre_hooks) + tuple(module._backward_hooks)
        if ids:
            found[name] = ids
    return found


def lock_is_free(model: InspectedModel) -> bool:
    """Tell whether another thread could take the model's lock now."""
    taken = []

    def attempt() -> None:
        taken.append(model.lock.acquire(blocking=False))
        if taken[0]:
            model.lock.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return taken[0]


def assert_at_rest(model: InspectedModel, before: dict[str, tuple[int, ...]]) -> None:
    """Check that no hook is left over since ``before`` and that the lock is free."""
    assert hooks(model.network) == before, f"hooks are left on {model.name}"
    assert lock_is_free(model), f"the lock of {model.name} is still held"


def blocks(network: Any) -> Sequence[torch.nn.Module]:
    """Return the decoder blocks."""
    return network.get_submodule(BLOCKS.get(network.config.model_type, "model.layers"))


def down_name(network: Any, block: int) -> str:
    """Return the full name of a block's down-projection."""
    kind = network.config.model_type
    return f"{BLOCKS.get(kind, 'model.layers')}.{block}.{DOWN_PROJECTIONS.get(kind, 'mlp.down_proj')}"


def down_weight(network: Any, block: int) -> Tensor:
    """Return a block's down-projection as ``[out, in]``, a view of the parameter."""
    module = network.get_submodule(down_name(network, block))
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def written(network: Any, *deltas: tuple[int, Tensor]) -> Any:
    """Return a copy of the network with ``(block, delta)`` added to its down-projections."""
    edited = copy.deepcopy(network)
    with torch.no_grad():
        for block, delta in deltas:
            down_weight(edited, block).add_(delta.to(edited.dtype))
    return edited


def patch(model: InspectedModel, *edited: int, seed: int = 1, size: float = 0.1) -> Patch:
    """Return a random patch of some blocks (the middle one by default)."""
    generator = torch.Generator().manual_seed(seed)
    deltas = []
    for block in edited or (model.blocks // 2,):
        shape = down_weight(model.network, block).shape
        change = size * torch.randn(shape, generator=generator)
        deltas.append(Delta(down_name(model.network, block), block, change))
    return Patch(tuple(deltas), model.fingerprint, "random")


@torch.no_grad()
def logits(network: Any, ids: Sequence[int]) -> Tensor:
    """Return the logits ``[tokens, vocabulary]`` of one sequence, from one plain forward pass."""
    return network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


@torch.no_grad()
def vanilla_logits(model: InspectedModel, ids: Sequence[int]) -> Tensor:
    """Return the logits that a person gets who uses the network without this program."""
    return logits(model.network, ids).clone()


@torch.no_grad()
def running_logits(model: InspectedModel, ids: Sequence[int], rows: Sequence[Row] = (VANILLA,)) -> Tensor:
    """Return the logits ``[rows, tokens, vocabulary]`` of one sequence with each row's weights."""
    with model.running(rows):
        return model.network(input_ids=torch.tensor([list(ids)] * len(rows)), use_cache=False).logits


@torch.no_grad()
def states(network: Any, ids: Sequence[int]) -> list[Tensor]:
    """Return the input of block 0 and every block output, ``[tokens, d_model]`` each, from one plain pass."""
    seen: list[Tensor] = []

    def before(_module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    def after(_module, _args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    modules = list(blocks(network))
    handles = [modules[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [module.register_forward_hook(after) for module in modules]
    try:
        network(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [state[0].clone() for state in seen]


def bytes_of(model: InspectedModel, text: str) -> list[int]:
    """Return the ids of a text without special tokens."""
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def prompt(model: InspectedModel, text: str, suffix: str = SUFFIX) -> list[int]:
    """Return the ids of a user's text with suffix, in the tests' chat template if the tokenizer has it."""
    if model.tokenizer.chat_template:
        return bytes_of(model, f"<s>[user]{text}{suffix}\n[assistant]")
    return model.tokenizer(text + suffix)["input_ids"]


def response(model: InspectedModel, text: str) -> list[int]:
    """Return the ids of an answer that follows :func:`prompt`, without end-of-answer id."""
    return bytes_of(model, text if model.tokenizer.chat_template else " " + text)


def flip_bit(path: Path) -> None:
    """Change one bit of a safetensors file: the lowest of the last four bytes, which are a tensor's."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(bytes(content))
