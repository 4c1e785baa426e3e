"""Which parameters are decayed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jaxrobust import models

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("model", "shape", "norms", "others"),
    [
        # Scale and bias of 7 norms; stem, 3 * 2 + 2 convolutions, kernel and bias of the head.
        (models.WideResNet(3, depth=10, width=1), (8, 8, 3), 14, 11),
        (models.SmallCNN(3, (4,), batch_norm=True), (8, 8, 3), 2, 4),
        (models.ViT(3, patch_size=4, width=4, depth=1, heads=1, mlp_width=4), (8, 8, 3), 6, 18),
        (models.MLP(3), (8, 8, 3), 0, 4),
    ],
    ids=["wide_resnet", "small_cnn", "vit", "mlp"],
)
def test_all_but_scale_and_bias_of_norms(model, shape, norms, others):
    params = jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape)))["params"]
    mask = models.decay_mask(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    for path, decayed in flatten_dict(mask).items():
        assert decayed is (path[-2] not in ("batch_norm", "layer_norm"))
    assert sorted(jax.tree.leaves(mask)) == [False] * norms + [True] * others


def test_coupled_decay_with_nesterov_momentum():
    """Check 7.5-4 on a kernel; the norm beside it moves as without decay."""
    optimizer = optax.chain(optax.add_decayed_weights(5e-4, mask=models.decay_mask), optax.sgd(0.1, 0.9, nesterov=True))
    params = {"norm": {"scale": jnp.ones(()), "bias": jnp.ones(())}, "head": {"kernel": jnp.ones(())}}
    state, gradients = optimizer.init(params), jax.tree.map(lambda leaf: leaf / 2, params)
    decayed, plain = [], []
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        decayed.append(params["head"]["kernel"])
        plain.append(params["norm"])
    np.testing.assert_allclose(decayed, [0.904905, 0.769278534, 0.597182354], rtol=1e-6)
    for leaf in ("scale", "bias"):
        np.testing.assert_allclose([norm[leaf] for norm in plain], [0.905, 0.7695, 0.59755], rtol=1e-5)
