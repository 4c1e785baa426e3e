import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.batching import data_mesh, shard_rows
from jaxrobust.iteration import UNROLL_LIMIT, Closure, choose_mode, convolves_slowly, iterate, settled


def double_and_add(constants, state):
    return 2.0 * state + constants


@pytest.mark.parametrize("mode", ["auto", "python", "unroll", "lax"])
def test_all_modes_agree(mode):
    result = iterate(double_and_add, jnp.float32(1.0), jnp.float32(0.0), 5, mode=mode)
    assert float(result) == 31.0


@pytest.mark.parametrize("mode", ["python", "lax"])
def test_what_lies_on_several_devices_is_computed_to_the_end(mode):
    """Programs that exchange data, here whether the loop goes on, do not overlap: the CPU backend could hang."""

    def halve(constants, state):
        return jax.lax.while_loop(lambda x: jnp.any(x > constants), lambda x: x / 2, state + 1)

    rows = shard_rows(np.arange(1.0, 9, dtype=np.float32), data_mesh(jax.devices()[:2]))
    found = iterate(halve, jnp.float32(0.5), rows, 20, mode=mode)
    assert found.is_ready()
    assert settled(found) is found
    assert float(found.max()) <= 0.5


@pytest.mark.parametrize("mode", ["auto", "unroll", "lax"])
def test_inside_jit(mode):
    run = jax.jit(lambda x: iterate(double_and_add, jnp.float32(1.0), x, 3, mode=mode))
    assert float(run(jnp.float32(0.0))) == 7.0


def test_zero_steps_return_the_state():
    assert float(iterate(double_and_add, 1.0, jnp.float32(4.0), 0)) == 4.0


def test_differentiable():
    gradient = jax.grad(lambda x: iterate(double_and_add, jnp.float32(1.0), x, 3))(jnp.float32(0.5))
    assert float(gradient) == 8.0


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        iterate(double_and_add, 1.0, 0.0, -1)
    with pytest.raises(ValueError, match="choose one of auto, python, unroll, lax"):
        iterate(double_and_add, 1.0, 0.0, 1, mode="fast")
    with pytest.raises(ValueError, match='use "unroll" or "lax"'):
        jax.jit(lambda x: iterate(double_and_add, 1.0, x, 1, mode="python"))(jnp.float32(0.0))


def test_rule_of_the_driver():
    assert choose_mode(10**6, traced=False, slow_in_loops=False) == "lax"
    assert choose_mode(10**6, traced=False, slow_in_loops=True) == "python"
    assert choose_mode(UNROLL_LIMIT, traced=True, slow_in_loops=True) == "unroll"
    assert choose_mode(UNROLL_LIMIT + 1, traced=True, slow_in_loops=True) == "lax"


def test_convolutions_are_found_inside_other_programs_and_slow_on_cpu_alone():
    def convolve(x):
        return jax.lax.conv(x, jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")

    images = jnp.ones((1, 1, 8, 8))
    inside = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jax.jit(convolve)(y), x))(images)
    assert convolves_slowly(inside)
    assert convolves_slowly(jax.make_jaxpr(jax.grad(lambda x: convolve(x).sum()))(images))
    assert not convolves_slowly(inside, "gpu")
    assert not convolves_slowly(jax.make_jaxpr(jnp.sin)(images))


def test_step_is_compiled_once_for_new_parameters():
    traces = []

    def step(constants, state):
        traces.append(1)
        return constants(state)

    for weight in (1.0, 2.0, 3.0):
        closure = Closure(functools.partial(jnp.multiply, jnp.float32(weight)))
        assert float(iterate(step, closure, jnp.float32(1.0), 4)) == weight**4
    assert len(traces) == 1


def test_traced_without_traced_arguments_is_noticed():
    # All arguments are concrete, but the caller is being compiled: no loop of 10,000 steps may be unrolled into it.
    jaxpr = jax.make_jaxpr(lambda: iterate(double_and_add, jnp.float32(1.0), jnp.float32(0.0), 10_000))()
    assert len(jaxpr.eqns) < 20


class TestClosure:
    def test_keeps_static_arguments_static(self):
        def apply(variables, x, train):
            return x * variables["w"] if train else x

        closure = Closure(functools.partial(apply, {"w": jnp.float32(3.0)}, train=True))
        assert float(jax.jit(lambda f, x: f(x))(closure, jnp.float32(2.0))) == 6.0
        assert len(jax.tree.leaves(closure)) == 1

    def test_plain_function_has_no_leaves(self):
        assert jax.tree.leaves(Closure(jnp.sin)) == []

    def test_numpy_arrays_are_leaves(self):
        assert len(jax.tree.leaves(Closure(functools.partial(jnp.add, np.ones(2))))) == 1

    def test_callable_pytree(self):
        partial = jax.tree_util.Partial(jnp.add, jnp.float32(1.0))
        assert float(Closure(partial)(jnp.float32(1.0))) == 2.0

    def test_closure_of_closure_is_the_same(self):
        closure = Closure(functools.partial(jnp.add, jnp.float32(1.0)))
        again = Closure(closure)
        assert jax.tree.structure(again) == jax.tree.structure(closure)
