"""Swin, ConvNeXt and ViT against timm and torchvision: logits with the weights of their modules, read from a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _vision import import_vision

from jaxrobust import models

torch = pytest.importorskip("torch")
timm = import_vision("timm")
vision = import_vision("torchvision.models")
pytestmark = pytest.mark.parity

SMALL_SWIN = {"width": 24, "stage_sizes": (2, 2), "heads": (2, 4)}


def randomised(module, seed=0):
    """Every parameter at random, such that signals neither vanish nor explode; norms about 1, layer scales about 0.5."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(module.named_parameters())
    embeddings = (
        "features.0.0.",
        "stem.0.",
        *(["patch_embed.proj."] if "patch_embed.norm.weight" in parameters else []),
    )
    with torch.no_grad():
        for name, parameter in parameters.items():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith(embeddings):
                noise /= 100  # so faint that the epsilon of the norm that follows matters
            if parameter.ndim > 1 and name.endswith("weight"):
                parameter.copy_(noise / np.sqrt(np.prod(parameter.shape[1:])))
            elif name.endswith(("gamma", "layer_scale")):
                parameter.copy_(0.5 + noise / 10)
            elif name.endswith("weight"):  # of a norm
                parameter.copy_(1 + noise / 4)
            else:  # biases, tables of relative positions, positions, class tokens
                parameter.copy_(noise / 4)
    return module.eval()


def assert_same_logits(module, model, shape, path, batch=2):
    """Compare for images that are normalised in our network and beforehand in theirs."""
    torch.save(randomised(module).state_dict(), path)
    variables = models.load_variables(path, model, shape)
    images = jax.random.uniform(jax.random.key(0), (batch, *shape))
    logits = jax.jit(model.apply)(variables, images)
    normalised = (images - jnp.array(model.mean)) / jnp.array(model.std) if model.mean is not None else images
    with torch.no_grad():
        expected = module(torch.tensor(np.asarray(normalised).transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny"])
def test_torchvision(path, name):
    module = getattr(vision, name)(weights=None, num_classes=10)
    assert_same_logits(module, models.create(name, 10, (224, 224, 3)), (224, 224, 3), path, batch=1)


@pytest.mark.parametrize(
    ("name", "ours"), [("swin_tiny_patch4_window7_224", "swin_t"), ("convnext_tiny", "convnext_tiny")]
)
def test_timm(path, name, ours):
    module = timm.create_model(name, num_classes=10)
    assert_same_logits(module, models.create(ours, 10, (224, 224, 3)), (224, 224, 3), path, batch=1)


@pytest.mark.parametrize("depths", [(1, 1, 2, 1), (2, 2, 18, 2)])
def test_swin_base(path, depths):
    module = timm.create_model("swin_base_patch4_window7_224", num_classes=10, depths=depths)
    model = models.swin_b(10, stage_sizes=depths)
    assert_same_logits(module, model, (224, 224, 3), path, batch=1)


def test_convnext_base(path):
    # Not square, and small: the last feature map is a single row.
    module = timm.create_model("convnext_base", num_classes=10, depths=(1, 1, 2, 1))
    assert_same_logits(module, models.convnext_base(10, stage_sizes=(1, 1, 2, 1)), (32, 64, 3), path)


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 16, 3)])
def test_windows_that_take_the_whole_feature_map(path, shape):
    """Maps of 16 to 2 tokens a side, windows of 4: shifted in both directions, in one, in none."""
    model = models.create("swin_t", 10, shape, width=24, heads=(2, 2, 4, 4), stage_sizes=(2, 2, 2, 2))
    assert (model.patch_size, model.window) == (2, 4)
    module = timm.models.swin_transformer.SwinTransformer(
        img_size=shape[:2],
        patch_size=2,
        num_classes=10,
        embed_dim=24,
        depths=(2, 2, 2, 2),
        num_heads=(2, 2, 4, 4),
        window_size=4,
    )
    assert_same_logits(module, model, shape, path)


def test_original_names_of_swin(path):
    """Those of the publication's code: merging belongs to the stage before it, buffers are saved."""
    module = randomised(
        timm.models.swin_transformer.SwinTransformer(
            img_size=32, num_classes=10, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4
        )
    )
    names = {"head.fc": "head", "layers.1.downsample": "layers.0.downsample"}
    original = {}
    for name, tensor in module.state_dict().items():
        for theirs, old in names.items():
            name = name.replace(theirs, old)
        original[name] = tensor
    original["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    original["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    torch.save({"model": original, "epoch": 3}, path)
    model, shape = models.Swin(10, window=4, **SMALL_SWIN), (32, 32, 3)
    expected = models.from_torch(model, module.state_dict(), shape)
    loaded = models.load_variables(path, model, shape)
    assert jax.tree.all(jax.tree.map(lambda ours, theirs: (ours == theirs).all(), loaded, expected))


@pytest.mark.parametrize("legacy", [False, True])
def test_vit_of_torchvision(path, legacy):
    module = vision.VisionTransformer(32, 8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=40, num_classes=10)
    options = {"patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp_width": 40, "activation": "gelu"}
    model = models.vit_b16(10, **options)
    if not legacy:
        assert_same_logits(module, model, (32, 32, 3), path)
        return
    state_dict = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): tensor
        for name, tensor in randomised(module).state_dict().items()
    }
    expected = models.from_torch(model, module.state_dict(), (32, 32, 3))
    loaded = models.from_torch(model, state_dict, (32, 32, 3))
    assert jax.tree.all(jax.tree.map(lambda ours, theirs: (ours == theirs).all(), loaded, expected))


def test_vit_of_timm(path):
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    module = timm.models.vision_transformer.VisionTransformer(32, num_classes=10, **options)
    ours = {"patch_size": 8, "width": 24, "depth": 2, "heads": 3, "mlp_width": 48, "activation": "gelu"}
    assert_same_logits(module, models.vit_b16(10, **ours), (32, 32, 3), path)


def test_gradients_of_the_input(path):
    """The gradient-norm penalty and what it takes to train with it: first and second derivatives."""
    module = vision.swin_transformer.SwinTransformer([2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=10)
    torch.save(randomised(module).state_dict(), path)
    model, shape = models.Swin(10, patch_size=2, window=4, **SMALL_SWIN), (16, 16, 3)
    variables = models.load_variables(path, model, shape)
    images = jax.random.uniform(jax.random.key(0), (2, *shape))

    def penalty(variables):
        gradient = jax.grad(lambda images: model.apply(variables, images)[:, 0].sum())(images)
        return jnp.abs(gradient).sum()

    value, gradients = jax.jit(jax.value_and_grad(penalty))(variables)
    inputs = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy(), requires_grad=True)
    (gradient,) = torch.autograd.grad(module(inputs)[:, 0].sum(), inputs, create_graph=True)
    theirs = gradient.abs().sum()
    theirs.backward()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-4)
    embedding = gradients["params"]["embedding"]["conv"]["kernel"]
    expected = module.features[0][0].weight.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(embedding, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    table = gradients["params"]["stage_0_block_1"]["attention"]["relative_positions"]
    expected = module.features[1][1].attn.relative_position_bias_table.grad.numpy()
    np.testing.assert_allclose(table, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
