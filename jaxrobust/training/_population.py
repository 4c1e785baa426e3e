"""Population training: learning rates and seeds of one network train together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.batching import to_float
from jaxrobust.data import Augment, Mix, epoch_batches
from jaxrobust.iteration import convolves_slowly, equations

from ._checkpoints import Checkpoints
from ._objectives import Objective, standard
from ._state import TrainState, init_state, linen_apply
from ._step import make_train_step

PopulationMode = Literal["auto", "together", "one_by_one"]
OptimizerFactory = Callable[[Any], optax.GradientTransformation]
"""``learning rate -> optimizer``; the learning rate may be a traced scalar."""


class Population(NamedTuple):
    """Trained members, stacked along a leading axis.

    Attributes:
        variables: parameters and model state, every leaf ``[members, ...]``; see :func:`member`.
        history: metrics per epoch, ``{name: [epochs, members]}``, means over the epoch's batches. A member whose
            loss is not finite has diverged; the others are not affected.
    """

    variables: Any
    history: dict[str, np.ndarray]


def member(variables: Any, index: int) -> Any:
    """One member's variables out of the stacked ones."""
    return jax.tree.map(lambda leaf: leaf[index], variables)


def train_population(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    optimizer: OptimizerFactory,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
    batch_size: int = 128,
    objective: Objective | None = None,
    augment: Augment | None = None,
    mix: Mix | None = None,
    initial: Any = None,
    drop_last: bool = False,
    mode: PopulationMode = "auto",
    memory_limit: float = 4e9,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> Population:
    """Train one network for each pair ``(learning_rates[i], seeds[i])``.

    A seed decides initialisation, data order and augmentation, so members of equal seed differ by their learning
    rate alone. ``"together"`` maps one compiled step over parameters, optimizer state, key and learning rate;
    ``"one_by_one"`` trains the members in turn with the same step, and the results agree to rounding.
    ``"auto"`` trains together except where the network has convolutions and the backend is CPU: there XLA may run
    convolutions with batched kernels many times slower (``benchmarks/results/README.md``: eleven times for CNN-4).

    Args:
        model: a Flax Linen module whose ``__call__`` takes ``train``; its attributes must be hashable.
        images: training images ``[n, height, width, channels]``, uint8 or floating point; they must fit the device.
        labels: classes ``[n]``.
        optimizer: makes an Optax optimizer from a learning rate, e.g.
            ``lambda rate: optimizers.sgd(schedules.step_decay(rate, total_steps))``. A later call with the same
            function object, model, objective, augmentation and shapes compiles nothing again.
        learning_rates: one per member.
        seeds: one per member.
        epochs: passes over the data.
        batch_size: images per step.
        objective: what is minimised, :func:`standard` by default.
        augment: jittable augmentation.
        mix: see :func:`make_train_step`.
        initial: variables to start from instead of random ones, every leaf ``[members, ...]`` as in
            :class:`Population`; the optimizers start anew.
        drop_last: leave out the last partial batch of each epoch.
        mode: how members are run.
        memory_limit: bytes that the members trained together may need, by an upper estimate (every intermediate
            value of a step counted); a larger population is trained in chunks.
        checkpoints: where to save after each epoch and to resume from.
        on_epoch: called as ``on_epoch(epochs done, epochs in all)`` counted over all chunks.

    Raises:
        ValueError: for lists of different length, no members, initial variables of other shapes, or a batch larger than
            the data with ``drop_last``.
    """
    if len(learning_rates) != len(seeds) or not seeds:
        raise ValueError(
            "learning_rates and seeds must list the same members, at least one; "
            f"got {len(learning_rates)} learning rates and {len(seeds)} seeds"
        )
    if mode not in get_args(PopulationMode):
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(get_args(PopulationMode))}")
    if drop_last and batch_size > len(images):
        raise ValueError(f"batch_size {batch_size} exceeds the {len(images)} images and drop_last is set")

    data = _Data(jnp.asarray(images), jnp.asarray(labels, jnp.int32))
    rates = jnp.asarray(learning_rates, jnp.float32)
    init, step = _member_functions(model, objective or _STANDARD, optimizer, augment, mix)
    indices = jnp.zeros(min(batch_size, len(images)), jnp.int32)
    state = jax.eval_shape(init, rates[0], jax.random.key(0), data.images[:1])
    if initial is not None:
        wanted = jax.tree.map(lambda leaf: (len(seeds), *leaf.shape), state.variables)
        if jax.tree.map(jnp.shape, dict(initial)) != wanted:
            raise ValueError(
                f"initial must hold the network's variables with a leading axis of {len(seeds)}, one entry per member, "
                "as Population has them"
            )
    jaxpr, (_, metrics) = jax.make_jaxpr(step, return_shape=True)(rates[0], state, data, indices)
    if mode == "auto":
        mode = choose_population_mode(jaxpr)
    size = members_that_fit(jaxpr, memory_limit) if mode == "together" else 1
    run_steps = _steps_together if mode == "together" else _steps_of_one

    populations = []
    for begin in range(0, len(seeds), size):
        chunk = slice(begin, min(begin + size, len(seeds)))
        starts = [None if initial is None else member(initial, i) for i in range(chunk.start, chunk.stop)]
        states = _stack(
            [
                init(rate, jax.random.key(seed), data.images[:1], start)
                for rate, seed, start in zip(rates[chunk], seeds[chunk], starts, strict=True)
            ]
        )
        history = {name: np.full((epochs, len(starts)), np.nan, np.float32) for name in metrics}
        name, done = f"members_{chunk.start}_to_{chunk.stop - 1}", 0
        if checkpoints is not None:
            done, (states, history) = checkpoints.restore_latest(name, (states, history))
        for epoch in range(done, epochs):
            orders = [epoch_batches(len(images), batch_size, seed, epoch, drop_last) for seed in seeds[chunk]]
            full = np.stack([order for order, _ in orders])
            totals = {name: np.zeros(len(starts), np.float32) for name in metrics}
            # The last partial batch has a shape, and so a compiled step, of its own.
            parts = (
                [full]
                if orders[0][1] is None
                else [full, np.stack([rest for _, rest in orders if rest is not None])[:, None]]
            )
            for order in (part for part in parts if part.size):
                states, sums = run_steps(step, rates[chunk], states, data, order)
                totals = {name: total + np.asarray(sums[name]) for name, total in totals.items()}
            for name_, total in totals.items():
                history[name_][epoch] = total / sum(part.shape[1] for part in parts)
            if checkpoints is not None:
                checkpoints.save(name, epoch + 1, (states, history))
            if on_epoch is not None:
                on_epoch(chunk.start * epochs + (epoch + 1) * len(starts), len(seeds) * epochs)
        populations.append(Population(states.variables, history))
    variables = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(p.variables for p in populations))
    return Population(variables, {n: np.concatenate([p.history[n] for p in populations], 1) for n in metrics})


class _Data(NamedTuple):
    images: jax.Array
    labels: jax.Array


_STANDARD = standard()
MemberInit = Callable[..., TrainState]
MemberStep = Callable[[jax.Array, TrainState, _Data, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


@functools.lru_cache(maxsize=16)  # the same functions again, so that nothing is compiled again
def _member_functions(
    model: nn.Module,
    objective: Objective,
    optimizer: OptimizerFactory,
    augment: Augment | None,
    mix: Mix | None,
) -> tuple[MemberInit, MemberStep]:
    apply = linen_apply(model)

    def init(rate: jax.Array, key: jax.Array, images: jax.Array, variables: Any = None) -> TrainState:
        return init_state(model, key, to_float(images), optimizer(rate), variables=variables)

    def step(
        rate: jax.Array, state: TrainState, data: _Data, indices: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        train_step = make_train_step(apply, objective, optimizer(rate), augment=augment, mix=mix)
        return train_step(state, {"images": data.images[indices], "labels": data.labels[indices]})

    return init, step


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.partial(jax.jit, static_argnums=0)
def _steps_together(
    step: MemberStep, rates: jax.Array, states: TrainState, data: _Data, order: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """All members through ``order`` ``[members, steps, batch]``; metrics summed over the steps."""
    mapped = jax.vmap(step, in_axes=(0, 0, None, 0))
    states, metrics = jax.lax.scan(
        lambda states, indices: mapped(rates, states, data, indices), states, order.swapaxes(0, 1)
    )
    return states, jax.tree.map(lambda values: values.sum(0), metrics)


def _steps_of_one(
    step: MemberStep, rates: jax.Array, states: TrainState, data: _Data, order: np.ndarray
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The same for a single member, its compiled step called from Python."""
    compiled = jax.jit(step)
    state, metrics = member(states, 0), []
    for indices in order[0]:
        state, values = compiled(rates[0], state, data, indices)
        metrics.append(values)
    return _stack([state]), jax.tree.map(lambda *values: jnp.stack(values).sum(0)[None], *metrics)


def choose_population_mode(jaxpr: Any, backend: str | None = None) -> PopulationMode:
    """The rule of ``mode="auto"``, given the jaxpr of one member's step."""
    return "one_by_one" if convolves_slowly(jaxpr, backend) else "together"


def members_that_fit(jaxpr: Any, memory_limit: float) -> int:
    """How many members fit, by an upper estimate: every value that one member's step computes is kept."""
    values = (variable.aval for equation in equations(jaxpr) for variable in equation.outvars)
    one = sum(value.size * value.dtype.itemsize for value in values if hasattr(value, "size"))
    return max(1, int(memory_limit // max(one, 1)))
