"""The one driver of iterative attacks and solvers, and the closures they iterate over.

An algorithm is a pure function ``step(constants, state) -> state``. :func:`iterate` decides how the steps are
run, by backend, in this one place:

* on accelerators, and on CPU for steps without convolutions, one ``lax.fori_loop`` inside one compiled program;
* on CPU with convolutions, one compiled step called from Python. XLA's CPU backend runs convolutions inside ``lax``
  loops several times slower than the same convolutions outside (see ``benchmarks/attacks.py``);
* on CPU with convolutions while the caller itself is being traced (the attack of an adversarial training step, say),
  where no Python call can be made at run time: short loops are unrolled, long ones become ``lax.fori_loop``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

State = TypeVar("State")
Mode = Literal["auto", "python", "unroll", "lax"]

UNROLL_LIMIT = 16
"""Longest loop that ``mode="auto"`` unrolls into the caller's program on CPU; compile time grows with it."""


@jax.tree_util.register_pytree_node_class
class Closure:
    """A callable as a pytree: the arrays that it binds are leaves, everything else is static.

    Compiled steps take their ``logits_fn`` as an argument in this form, so a new set of parameters does not
    compile anything again. Arrays are found in ``functools.partial`` objects and in callables that are pytrees
    themselves (``jax.tree_util.Partial``, Equinox and NNX modules); those inside a plain Python closure cannot
    be seen, are compiled in as constants, and each such function object compiles once.

    Example:
        >>> affine = functools.partial(lambda weight, x: weight * x, jnp.asarray(2.0))
        >>> len(jax.tree.leaves(Closure(affine)))
        1
        >>> float(Closure(affine)(3.0))
        6.0
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._arrays: tuple[Any, ...]
        self._static: tuple[Any, ...]
        self._treedef: Any
        if isinstance(function, Closure):
            self._arrays, self._static, self._treedef = function._arrays, function._static, function._treedef
            return
        if isinstance(function, functools.partial):
            function = jax.tree_util.Partial(function.func, *function.args, **function.keywords)
        leaves, self._treedef = jax.tree.flatten(function)
        is_array = [isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves]
        self._arrays = tuple(leaf if array else None for leaf, array in zip(leaves, is_array, strict=True))
        self._static = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))

    @property
    def function(self) -> Callable[..., Any]:
        """The function with the arrays put back in their places."""
        pairs = zip(self._arrays, self._static, strict=True)
        leaves = [static if array is None else array for array, static in pairs]
        return jax.tree.unflatten(self._treedef, leaves)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Arrays as children, the rest as static data."""
        return self._arrays, (self._static, self._treedef)

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: tuple[Any, ...]) -> Closure:
        """Rebuild without looking at the children, which may be tracers or placeholders."""
        closure = object.__new__(cls)
        closure._arrays, (closure._static, closure._treedef) = tuple(children), aux
        return closure


def is_traced(*trees: Any) -> bool:
    """Whether any leaf of the trees is a tracer, or the caller is inside ``jit``."""
    if isinstance(jnp.empty(()), jax.core.Tracer):
        return True
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a (closed) jaxpr, those of inner jaxprs included."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(parameter, "eqns"):
                yield from equations(parameter)


def convolves_slowly(jaxpr: Any, backend: str | None = None) -> bool:
    """Whether a jaxpr has convolutions that are slow inside loops, with batched kernels and in double backpropagation.

    Any, on CPU.

    Args:
        jaxpr: see ``jax.make_jaxpr``.
        backend: where it will run, by default the default backend.
    """
    if (backend or jax.default_backend()) != "cpu":
        return False
    return any(equation.primitive.name == "conv_general_dilated" for equation in equations(jaxpr))


def choose_mode(steps: int, traced: bool, slow_in_loops: bool) -> Mode:
    """How ``mode="auto"`` runs a loop of ``steps`` steps that :func:`convolves_slowly` or not."""
    if not slow_in_loops:
        return "lax"
    if not traced:
        return "python"
    return "unroll" if steps <= UNROLL_LIMIT else "lax"


def unroll(steps: int) -> int:
    """How many passes of a loop of so many, inside a step, to put side by side: all of a short one on CPU."""
    return steps if jax.default_backend() == "cpu" and steps <= 2 * UNROLL_LIMIT else 1


@functools.partial(jax.jit, static_argnums=(0, 1))
def _lax_loop(step: Callable[[Any, State], State], steps: int, constants: Any, state: State) -> State:
    jitted = jax.jit(step)  # already traced where its convolutions were looked for
    return jax.lax.fori_loop(0, steps, lambda _, current: jitted(constants, current), state)


def iterate(
    step: Callable[[Any, State], State],
    constants: Any,
    state: State,
    steps: int,
    *,
    mode: Mode = "auto",
    compile_step: bool = True,
) -> State:
    """Apply ``state = step(constants, state)`` ``steps`` times.

    Args:
        step: a pure function. It is compiled once per object and shapes, so make it once (in a factory), not
            once per call.
        constants: pytree that stays the same over the loop: images, labels, keys, :class:`Closure` functions.
        state: pytree of arrays; its structure, shapes and dtypes must not change.
        steps: number of steps, a Python integer.
        mode: ``"python"``, ``"unroll"``, ``"lax"``, or ``"auto"`` for the rule of this module.
        compile_step: ``False`` when ``step`` drives an inner :func:`iterate` itself (restarts, targets), which
            would otherwise be traced as a whole.

    Returns:
        The state after the last step.

    Raises:
        ValueError: for a negative number of steps, an unknown mode, or ``"python"`` inside ``jit``.

    Example:
        >>> iterate(lambda rate, x: rate * x, 0.5, jnp.asarray(8.0), 3).item()
        1.0
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(get_args(Mode))}")
    if steps == 0:
        return state
    traced = is_traced(constants, state)
    if mode == "auto":
        # Tracing is cached by step and shapes. A step that drives an inner loop leaves the choice to that one.
        slow = (
            convolves_slowly(jax.jit(step).trace(constants, state).jaxpr)
            if compile_step
            else jax.default_backend() == "cpu"
        )
        mode = choose_mode(steps, traced, slow)
    if mode == "lax":
        state = _lax_loop(step, steps, constants, state)
        return state if traced else settled(state)
    if mode == "python":
        if traced:
            raise ValueError('mode="python" calls a compiled step from Python and cannot be used inside jit;'
                             ' use "unroll" or "lax"')  # fmt: skip
        step = jax.jit(step) if compile_step else step
    for _ in range(steps):
        state = step(constants, state)
        if not traced:
            settled(state)
    return state


def settled(tree: State) -> State:
    """The same, computed to the end if it lies on several CPU devices; elsewhere programs may queue up.

    XLA's CPU backend may begin the next program on one device while another device is at the last one. If both exchange
    data, such as whether a loop goes on, the devices sometimes wait for each other for ever, and XLA aborts the process.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree
    return tree
