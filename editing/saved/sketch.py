"""What a record keeps of a patch so that another one can be held against it without its tensors.

Each matrix has its hash and its norm. How far two patches are apart is estimated from ``K`` (:data:`PROJECTIONS`)
numbers of each: ``y_k`` is the sum over the matrices ``D`` of ``u_k' D v_k``, with fixed vectors of random signs
(Rademacher) ``u_k`` and ``v_k`` that come from the matrix's name. They are linear, so the numbers of a difference are
the difference of the numbers, and the mean of their squares is on average the squared Frobenius norm. Signs of rows and
of columns, instead of one for each weight, cost two thin products, of the factors alone where the change is of low
rank; in exchange the estimate is wider: as ``E[y_k^4] <= 9 |D|^4``, the standard error of the norm is at most half of
``sqrt(8 / K)``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from inspector.model import Delta, Patch

PROJECTIONS = 64
STANDARD_ERROR = 0.5 * (8 / PROJECTIONS) ** 0.5
"""Most that a norm estimated from the numbers is off, one standard deviation, as a share of it: 0.18."""
MOST_NORM = 1e12
"""Largest norm of a matrix that is believed where a sketch is read: no edit comes near, and its powers stay finite."""
SHARES = 1 - 4 * STANDARD_ERROR, 1 + 12 * STANDARD_ERROR
"""Least and most that a norm estimated from the numbers can be of the one that is told beside them; products of signs
stray further up than down."""
_ROUNDING = 1e-6
"""What sums made in another order can change of a norm or a number, as a share of the patch's norm."""
_Number = Annotated[float, Field(allow_inf_nan=False)]
_PIECE = 2**22
"""Weights of a dense matrix that are read in float64 at a time."""


@dataclass(frozen=True)
class MatrixSketch:
    """One matrix of a patch.

    Attributes:
        module: Its name in the model.
        shape: Rows and columns.
        sha256: Over name, shapes and float32 contents of the delta, of its two factors where it is of low rank.
        norm: Frobenius norm of the delta.
    """

    module: str
    shape: tuple[int, int]
    sha256: str
    norm: Annotated[float, Field(ge=0, le=MOST_NORM, allow_inf_nan=False)]


@dataclass(frozen=True)
class Sketch:
    """A patch in a few numbers.

    Attributes:
        matrices: Its matrices, in their order.
        projections: :data:`PROJECTIONS` numbers, see above.
    """

    matrices: tuple[MatrixSketch, ...]
    projections: Annotated[tuple[_Number, ...], Field(min_length=PROJECTIONS, max_length=PROJECTIONS)]

    @property
    def norm(self) -> float:
        """Frobenius norm over all matrices."""
        return sum(matrix.norm**2 for matrix in self.matrices) ** 0.5

    def relative_difference(self, other: Sketch) -> float:
        """Estimate the Frobenius norm of the difference to another patch over this one's norm.

        Its standard error is at most :data:`STANDARD_ERROR` of it. It is never below what the matrices' norms alone
        are apart.
        """
        apart = np.subtract(self.projections, other.projections)
        mine, theirs = ({one.module: one.norm for one in sketch.matrices} for sketch in (self, other))
        least = math.hypot(*(mine.get(name, 0.0) - theirs.get(name, 0.0) for name in dict.fromkeys([*mine, *theirs])))
        return max(float(np.sqrt(np.mean(apart**2))), least) / max(self.norm, 1e-30)

    def same_patch(self, other: Sketch) -> bool:
        """Whether both are of one patch: its matrices the same to the bit, and what was summed up to rounding."""
        mine, theirs = ([replace(one, norm=0.0) for one in sketch.matrices] for sketch in (self, other))
        one, two = ([*(part.norm for part in sketch.matrices), *sketch.projections] for sketch in (self, other))
        return mine == theirs and np.allclose(one, two, rtol=0, atol=_ROUNDING * other.norm)

    def changed(self, other: Sketch) -> tuple[str, ...]:
        """Name the matrices that are not the same to the bit in both, those that one of them lacks among them."""
        mine, theirs = ({one.module: one.sha256 for one in sketch.matrices} for sketch in (self, other))
        return tuple(name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name))


def believed(sketch: Sketch) -> Sketch:
    """Return a sketch that was read if its numbers can be those of a patch of its norm.

    Raises:
        ValueError: They cannot.
    """
    estimate, (least, most) = math.hypot(*sketch.projections) / PROJECTIONS**0.5, SHARES
    if not least * sketch.norm <= estimate <= most * sketch.norm:
        raise ValueError(f"the numbers are of a norm of about {estimate:.3g}, and it says {sketch.norm:.3g}")
    return sketch


ReadSketch = Annotated[Sketch, AfterValidator(believed)]
"""A sketch that is held against itself where it is read (:func:`inspector.validated.read_record`)."""


def sketch_of(patch: Patch) -> Sketch:
    """Return the sketch of a patch."""
    projections = torch.zeros(PROJECTIONS, dtype=torch.float64)
    matrices = []
    for delta in patch.deltas:
        projections += _projected(delta)
        norm = max(0.0, delta.square_norm) ** 0.5
        matrices.append(MatrixSketch(delta.module, delta.shape, delta_digest(delta), norm))
    return Sketch(tuple(matrices), tuple(projections.tolist()))


def delta_digest(delta: Delta) -> str:
    """Return the SHA-256 over a delta's name, shapes and contents, 64 hexadecimal digits."""
    found = hashlib.sha256()
    add_delta(found, delta)
    return found.hexdigest()


def add_delta(digest: hashlib._Hash, delta: Delta) -> None:
    """Take a delta's name, shapes and float32 contents into a hash."""
    digest.update(delta.module.encode())
    for part in delta.parts:
        digest.update(str(tuple(part.shape)).encode())
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())


def _projected(delta: Delta) -> Tensor:
    """Return ``u_k' D v_k`` of each k, float64 ``[PROJECTIONS]``."""
    rows, columns = delta.shape
    outer, inner = _signs(delta.module, "rows", rows), _signs(delta.module, "columns", columns)
    left = delta.left.detach().cpu()
    if delta.right is not None:
        right = delta.right.detach().cpu().double()
        return ((outer @ left.double()) * (inner @ right.T)).sum(dim=1)
    found = torch.zeros(PROJECTIONS, columns, dtype=torch.float64)
    step = max(1, _PIECE // columns)
    for start in range(0, rows, step):
        found += outer[:, start : start + step] @ left[start : start + step].double()
    return (found * inner).sum(dim=1)


def _signs(module: str, side: str, count: int) -> Tensor:
    """Return ``[PROJECTIONS, count]`` of 1 and -1, float64: the same of a name wherever and whenever it is asked."""
    told = hashlib.shake_256(f"dinm-inspector sketch 1/{module}/{side}".encode()).digest(PROJECTIONS * count // 8)
    bits = np.unpackbits(np.frombuffer(told, dtype=np.uint8)).reshape(PROJECTIONS, count)
    return torch.from_numpy(2.0 * bits - 1.0)
