"""The README's Python runs as it stands."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxrobust import models

README = Path(__file__).parents[1] / "README.md"
IMAGES = np.full((2, 4, 4, 1), 0.5, np.float32)


class NNXLinear(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(16, 3, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.layer(images.reshape(len(images), -1))


@pytest.fixture
def names():
    """What the README takes for granted."""
    model = models.Linear(classes=3)
    weights = jnp.linspace(-1, 1, 48).reshape(16, 3)
    return {
        "model": model,
        "variables": model.init(jax.random.key(0), IMAGES),
        "nnx_model": NNXLinear(),
        # Like an Equinox module: a callable pytree for one image.
        "equinox_model": jax.tree_util.Partial(lambda w, image: image.reshape(-1) @ w, weights),
        "weights": weights,
        "images": IMAGES,
        "labels": np.array([0, 1]),
    }


def test_python_blocks_run(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the state of an evaluation, which would be continued by the next run of the tests
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    found = []
    for block in blocks:
        block = block.replace("epochs, batch_size = 30, 128", "epochs, batch_size = 3, 2")  # there are two images here
        # Every way to make a logits_fn is tried, not only the last one.
        for line in block.splitlines(keepends=True):
            if line.startswith("logits_fn ="):
                exec(block[: block.index(line) + len(line)], names)
                found.append(names["logits_fn"](names["images"]))
        exec(block, names)
    assert [logits.shape for logits in found] == [(2, 3)] * len(found)
    assert len(found) >= 5
    nnx_model = names["nnx_model"]
    before = nnx_model.layer.kernel[...]
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic needs it
        optimizer = nnx.Optimizer(nnx_model, optax.adamw(1e-3), wrt=nnx.Param)
        names["train_step"](nnx_model, optimizer, jax.random.key(0), names["images"], names["labels"])
    assert (nnx_model.layer.kernel[...] != before).all()
    assert names["adversarial"].shape == names["images"].shape
    shifted = names["attack"](jax.random.key(0), names["logits_fn"], names["images"], names["labels"])
    assert 0 < jnp.abs(shifted - names["images"]).max() <= 8 / 255 + 1e-6
