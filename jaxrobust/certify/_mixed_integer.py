"""Mixed-integer linear programs, made and solved piece by piece."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import Bounds, LinearConstraint, milp


class Solution(NamedTuple):
    """What the solver says.

    Attributes:
        status: whether it reached the end, and with what result.
        bound: a lower bound of the objective, ``-inf`` if there is none.
        variables: the best point found, or ``None``.
    """

    status: Literal["optimal", "infeasible", "timeout", "failed"]
    bound: float
    variables: np.ndarray | None


TIMEOUT = Solution("timeout", -math.inf, None)

_STATUS: dict[int, Literal["optimal", "timeout", "infeasible"]] = {0: "optimal", 1: "timeout", 2: "infeasible"}

_ANY = 1e9
"""A relative gap between what is found and what is possible with which the solver is content with any point."""


class Program:
    """Variables with bounds, and linear constraints.

    Functions of the variables are sparse matrices ``[rows, capacity]``.

    Args:
        capacity: how many variables there may be.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lower, self._upper, self._integer = (np.zeros(0) for _ in range(3))
        self._constraints: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self._assembled: LinearConstraint | None = None

    @property
    def binaries(self) -> int:
        """How many variables have to be integers."""
        return int(self._integer.sum())

    def variables(self, lower: np.ndarray, upper: np.ndarray, *, integer: bool = False) -> np.ndarray:
        """New variables; their numbers."""
        count = len(self._lower)
        self._lower, self._upper = np.append(self._lower, lower), np.append(self._upper, upper)
        self._integer = np.append(self._integer, np.full(len(lower), float(integer)))
        return np.arange(count, len(self._lower))

    def rows(self, variables: np.ndarray, values: Any = 1.0) -> sparse.csr_array:
        """A row for each of the variables, which holds a multiple of it."""
        return self.placed(len(variables), np.arange(len(variables)), variables, values)

    def placed(self, size: int, rows: np.ndarray, variables: np.ndarray, values: Any = 1.0) -> sparse.csr_array:
        """``size`` rows, some of which hold a multiple of a variable, the others nothing."""
        entries = np.broadcast_to(np.asarray(values, np.float64), rows.shape)
        return sparse.csr_array((entries, (rows, variables)), (size, self._capacity))

    def constrain(self, matrix: Any, lower: Any, upper: Any) -> None:
        """``lower <= matrix @ variables <= upper``."""
        low, high = (np.broadcast_to(np.asarray(side, np.float64), matrix.shape[:1]) for side in (lower, upper))
        self._constraints.append((matrix, low, high))
        self._assembled = None

    def minimize(
        self,
        objective: Any,
        row: Any,
        largest: float,
        *,
        seconds: float,
        any_point: bool = False,
        upper: dict[int, float] | None = None,
        pattern: np.ndarray | None = None,
    ) -> Solution:
        """Minimise ``objective @ variables`` subject to ``row @ variables <= largest`` as well.

        Args:
            objective, row: ``[1, capacity]``.
            largest: value of the row.
            seconds: when to give up.
            any_point: whether any point will do; the objective then shows the way.
            upper: tighter upper bounds of some variables.
            pattern: a point whose integers are kept, which makes the program a linear one.
        """
        highest, lowest, integer = self._upper.copy(), self._lower, self._integer
        for variable, bound in (upper or {}).items():
            highest[variable] = min(highest[variable], bound)
        if pattern is not None:
            kept = integer > 0
            highest[kept] = np.round(pattern[kept])
            lowest, integer = np.where(kept, highest, lowest), np.zeros_like(integer)
        result = milp(
            self._used(objective).toarray()[0],
            integrality=integer,
            bounds=Bounds(lowest, highest),
            constraints=[*self._fixed(), LinearConstraint(self._used(row), -np.inf, largest)],
            options={"time_limit": seconds, "mip_rel_gap": _ANY if any_point else 0.0},
        )
        bound = result.mip_dual_bound if integer.any() else result.fun
        bound = -math.inf if bound is None or math.isnan(bound) else float(bound)
        return Solution(_STATUS.get(result.status, "failed"), bound, result.x)

    def _fixed(self) -> list[LinearConstraint]:
        if self._assembled is None and self._constraints:
            matrices, lower, upper = zip(*self._constraints, strict=True)
            matrix = self._used(sparse.vstack(matrices))
            self._assembled = LinearConstraint(matrix, np.concatenate(lower), np.concatenate(upper))
        return [] if self._assembled is None else [self._assembled]

    def _used(self, matrix: Any) -> sparse.csr_array:
        """Without what was reserved for variables that do not exist."""
        return sparse.csr_array(matrix)[:, : len(self._lower)]
