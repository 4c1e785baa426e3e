"""A small, separable problem that every training test shares."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def blobs():
    """Images [90, 4, 4, 1] in [0, 1] of three classes, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30).astype(np.int32)
    centres = rng.uniform(0.2, 0.8, size=(3, 4, 4, 1))
    images = np.clip(centres[labels] + rng.normal(0, 0.1, size=(90, 4, 4, 1)), 0, 1).astype(np.float32)
    return images, labels
