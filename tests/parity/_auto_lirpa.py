"""auto_LiRPA 0.3 beside the PyTorch and NumPy of today: what it needs to be imported, and functions for its bounds.

The package index holds version 0.3 alone, which asks for PyTorch before 1.13 and NumPy 1. Install it with
``pip install --no-deps auto_LiRPA==0.3``; beside PyTorch and NumPy it needs ``tqdm`` and ``setuptools`` only. This
module lends it the names that have moved since, and changes nothing that computes a bound: beside PyTorch 1.12.1 and
NumPy 1.23, for which it was made, auto_LiRPA gives the same bounds to 3e-7 of their size (alpha-CROWN, whose steps
amplify rounding, to 1%).

By default the functions here ask for the methods as they were published, which is not what auto_LiRPA does by default:

``conv_mode="matrix"``
    "patches", the library's default, keeps rows of convolutions as small patches. Bounds are the same for square
    images, and *wrong*, too tight or too loose, for some others, such as 10 x 8. Groups and average pooling fail in
    this mode.
``sparse_intermediate_bounds=False``
    By default, layers before a ReLU have CROWN's interval only for units that IBP leaves unstable in some image of the
    batch; others keep that of IBP. Where IBP finds a unit stable and CROWN does not, bounds are then tighter, and
    depend on the other images.
``sparse_features_alpha=False``
    By default, alpha-CROWN fails where more than nine in ten units of a layer are unstable. Only storage depends on it.
First layers by a backward pass, if the norm is not Linf
    A convolution that reads the images would else have ``eps`` times the L2 norm of its whole kernel, for L2 and L1
    alike: too large where the kernel hangs over the border (L2), too large everywhere (L1). IBP and CROWN-IBP have
    these bounds still.

What decides whether other bounds can be equal to those of auto_LiRPA:

Ball
    Linf is a box, ``[max(x - eps, lower_bound), min(x + eps, upper_bound)]`` where pixels are bounded. L2 and L1 are
    the ball alone: ``<normal, x> -+ eps * dual norm of the normal``.
IBP
    Boxes by centre and radius, with the specification multiplied into the last dense layer. A dense layer that reads
    the images, flattened or not, has the exact dual norm of L2 and L1; for convolutions see above.
CROWN
    Intermediate bounds are CROWN's too, each by a backward pass of its own, and never intersected with those of IBP.
    Only what lies behind a ReLU and is needed itself (by a maximum) has the ReLU's interval.
CROWN-IBP
    All intermediate bounds by IBP, one backward pass for the specification.
forward
    Linear bounds from the first layer to the last; intermediate bounds are their extremes. Average pooling is not
    implemented.
ReLU
    The upper line joins (lower, 0) and (upper, upper). The lower line passes through 0 with the slope that ``relu``
    names: "adaptive" (1 if upper > -lower, else 0), "same-slope" (that of the upper line, as Fast-Lin), "zero-lb" or
    "one-lb". All methods but IBP obey.
Sigmoid, tanh, arctan
    On one side of 0: the chord, and the tangent at the middle. Across 0: the tangent that meets the curve at the far
    end, or the chord where it does not cut the curve. The points of contact are those of a table, at the next far end
    but up to 0.01 farther out: valid, but another line. ``tangent_step`` makes a finer table; with 0.001, bounds move
    in the fourth digit and less.
Maximum
    Lower line: the input with the largest lower bound. Upper line: that input, if no other can exceed its lower bound,
    else the constant largest upper bound. Windows must neither overlap nor be padded.
alpha-CROWN
    Lower and upper bounds are optimised apart. Slopes start at those of CROWN. Every row of the specification has
    slopes of its own, and so has every unit whose interval is needed: intermediate bounds are computed anew in each
    step. Twenty steps of Adam (rate 0.5, times 0.98 per step) raise the sum of all rows; each entry keeps its best
    value. Sigmoid, tanh and arctan after a convolution need ``conv_mode="patches", use_full_conv_alpha=False``: units
    of a channel share their slopes then. Maxima fail.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch


@contextlib.contextmanager
def _lent_modules() -> Iterator[None]:
    """Modules that are gone or not worth installing, for the import; and undo what it does to the process."""
    # NumPy 2 hides this module; auto_LiRPA imports `isin` from it and does not use it.
    arraysetops: Any = types.ModuleType("numpy.lib.arraysetops")
    arraysetops.isin = np.isin
    # auto_LiRPA makes a folder in the home directory, at import, and does not use it; it accepts one that exists.
    appdirs: Any = types.ModuleType("appdirs")
    appdirs.user_data_dir = lambda name: tempfile.gettempdir()
    lent = {module.__name__: module for module in (arraysetops, appdirs)}
    recursion_limit, before = sys.getrecursionlimit(), {name: sys.modules.get(name) for name in lent}
    sys.modules.update(lent)
    try:
        with warnings.catch_warnings():  # it sets a global filter; TorchScript warns that it is deprecated
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.setrecursionlimit(recursion_limit)  # it allows a million frames: an endless recursion would crash
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _lend_names() -> None:
    """Names of PyTorch that auto_LiRPA calls and that have moved."""
    # The version of ONNX for the traced graph is a global variable of the exporter now.
    symbolic_helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    if not hasattr(symbolic_helper, "_set_opset_version"):
        exporter = importlib.import_module(importlib.import_module("torch.onnx.utils")._optimize_graph.__module__)

        def set_opset_version(version: int) -> None:
            exporter.GLOBALS.export_onnx_opset_version = version

        symbolic_helper._set_opset_version = set_opset_version
    # A node of a traced graph gives its attributes by name no more: node["strides"].
    node_type: Any = torch._C.Node
    if not hasattr(node_type, "__getitem__"):
        node_type.__getitem__ = lambda node, name: getattr(node, node.kindOf(name))(name)


def _import() -> Any:
    _lend_names()
    with _lent_modules():
        library: Any = importlib.import_module("auto_LiRPA")
    named_members = library.BoundedModule._named_members

    # torch.nn.Module calls this override with one argument more since 2.0. It always removes duplicates.
    def _named_members(self, get_members_fn, prefix="", recurse=True, remove_duplicate=True):
        return named_members(self, get_members_fn, prefix, recurse)

    library.BoundedModule._named_members = _named_members
    return library


auto_LiRPA = _import()

_AS_PUBLISHED = {"conv_mode": "matrix", "sparse_intermediate_bounds": False, "sparse_features_alpha": False}


class LinearBounds(NamedTuple):
    """Bounds ``[batch, rows]`` and linear functions behind them, normals ``[batch, rows, height, width, channels]``.

    ``<lower_normals, x'> + lower_offsets <= row <= <upper_normals, x'> + upper_offsets`` for all perturbed images x'.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_normals: np.ndarray
    lower_offsets: np.ndarray
    upper_normals: np.ndarray
    upper_offsets: np.ndarray


def bounded_module(
    module: torch.nn.Module,
    images: np.ndarray,
    *,
    relu: str = "adaptive",
    tangent_step: float | None = None,
    alpha: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """auto_LiRPA's ``BoundedModule`` of ``module`` in evaluation mode, without gradients of its weights.

    Args:
        module: Network of images ``[batch, channels, height, width]``. Its weights lose their gradients.
        images: Images ``[batch, height, width, channels]`` of the shape to come.
        relu: Lower slope of a ReLU: "adaptive", "same-slope", "zero-lb" or "one-lb".
        tangent_step: Step of the table of tangents of sigmoid, tanh and arctan; None leaves auto_LiRPA's, 0.01. This
            table ends at 20: inputs must lie within.
        alpha: Options of alpha-CROWN, such as ``{"iteration": 100, "lr_alpha": 0.1}``.
        **options: Entries of ``bound_opts``, also in place of those that this module chooses, such as
            ``conv_mode="patches"``.
    """
    module.requires_grad_(False)
    options = {**_AS_PUBLISHED, "relu": relu, "optimize_bound_args": alpha or {}, **options}
    with warnings.catch_warnings():  # tracing is deprecated
        warnings.simplefilter("ignore")
        bounded = auto_LiRPA.BoundedModule(module, _tensor(images), bound_opts=options)
    bounded.eval()
    if tangent_step is not None:
        for node in bounded.optimizable_activations:
            if hasattr(node, "step_pre"):
                _refine_tangents(node, tangent_step)
    return bounded


def perturbed(
    images: np.ndarray,
    norm: float,
    eps: float,
    lower_bound: float | np.ndarray | None = None,
    upper_bound: float | np.ndarray | None = None,
) -> Any:
    """The images with their ball, as auto_LiRPA takes them; for Linf within the box from lower_bound to upper_bound."""
    x = _tensor(images)
    box = {}
    if lower_bound is not None or upper_bound is not None:
        if norm != np.inf:
            raise ValueError(
                f"auto_LiRPA ignores the box of pixels for norm {norm}; give no lower_bound and upper_bound"
            )
        box["x_L"] = _tensor(np.maximum(images - eps, -np.inf if lower_bound is None else lower_bound))
        box["x_U"] = _tensor(np.minimum(images + eps, np.inf if upper_bound is None else upper_bound))
    with np.errstate(divide="ignore"):  # the dual of L1
        return auto_LiRPA.BoundedTensor(x, auto_LiRPA.PerturbationLpNorm(norm=norm, eps=eps, **box))


def bounds(
    module: torch.nn.Module,
    images: np.ndarray,
    norm: float,
    eps: float,
    method: str,
    specification: np.ndarray | None = None,
    lower_bound: float | np.ndarray | None = None,
    upper_bound: float | np.ndarray | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds ``[batch, rows]`` of ``specification @ logits`` on the ball about each image.

    Args:
        module: Network of images ``[batch, channels, height, width]``.
        images: ``[batch, height, width, channels]``.
        norm: ``numpy.inf``, 2 or 1.
        eps: Radius of the ball.
        method: "IBP", "CROWN-IBP", "CROWN", "forward" or "alpha-CROWN" (also "CROWN-Optimized").
        specification: ``[batch, rows, classes]``; None is the identity: the logits themselves.
        lower_bound: Smallest pixels, a number or an array like ``images``; Linf only.
        upper_bound: Largest pixels.
        **options: Those of `bounded_module`.

    Raises:
        ValueError: If a box is given for L2 or L1, which auto_LiRPA would ignore.
    """
    x = perturbed(images, norm, eps, lower_bound, upper_bound)
    lower, upper = _compute(bounded_module(module, images, **options), x, method, specification)[:2]
    return lower.numpy(), upper.numpy()


def linear_bounds(
    module: torch.nn.Module,
    images: np.ndarray,
    norm: float,
    eps: float,
    method: str,
    specification: np.ndarray | None = None,
    lower_bound: float | np.ndarray | None = None,
    upper_bound: float | np.ndarray | None = None,
    **options: Any,
) -> LinearBounds:
    """As `bounds`, for methods that end with a backward pass ("CROWN" and "CROWN-IBP"), with their linear functions."""
    x = perturbed(images, norm, eps, lower_bound, upper_bound)
    bounded = bounded_module(module, images, **options)
    lower, upper, records = _compute(bounded, x, method, specification, normals=True)
    (record,) = records[bounded.final_name].values()
    normals = [record[name].permute(0, 1, 3, 4, 2).numpy() for name in ("lA", "uA")]
    offsets = [record[name].numpy() for name in ("lbias", "ubias")]
    return LinearBounds(lower.numpy(), upper.numpy(), normals[0], offsets[0], normals[1], offsets[1])


def _compute(bounded: Any, x: Any, method: str, specification: np.ndarray | None, normals: bool = False) -> Any:
    """The bounds as tensors without gradients, and the linear functions of the layers that were asked for."""
    optimised = method.lower() in ("alpha-crown", "crown-optimized")  # needs gradients on the way
    rows = None if specification is None else torch.tensor(np.asarray(specification, np.float32))
    (root,) = (node.name for node in bounded._modules.values() if type(node).__name__ == "BoundInput")
    needed = {bounded.final_name: {root}} if normals else {}
    if x.ptb.norm != np.inf and method.lower() not in ("ibp", "forward", "crown-ibp"):
        # A layer that reads the images has no backward pass, unless its linear functions are asked for.
        needed |= {node.name: {root} for node in bounded._modules.values() if _reads(node, root)}
    with torch.set_grad_enabled(optimised), np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = bounded.compute_bounds(x=(x,), C=rows, method=method, return_A=bool(needed), needed_A_dict=needed)
    return *(bound.detach() for bound in result[:2]), *result[2:]


def _reads(node: Any, root: str) -> bool:
    return type(node).__name__ in ("BoundConv", "BoundLinear") and node.inputs[0].name == root


def _tensor(images: np.ndarray) -> torch.Tensor:
    images = np.asarray(images, np.float32)
    return torch.tensor(images if images.ndim == 2 else images.transpose(0, 3, 1, 2).copy())


def _refine_tangents(node: Any, step: float, limit: float = 20.0) -> None:
    """Replace the table of tangents of an S-shaped function by one with smaller steps, in double precision.

    Entry i is where the tangent through (i * step, f) touches the curve on the other side of 0; the curve is odd about
    (0, f(0)), so one bisection gives both tables.
    """
    name = type(node).__name__
    functions = {
        "BoundTanh": (torch.tanh, lambda x: 1 / torch.cosh(x) ** 2),
        "BoundSigmoid": (torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
        "BoundAtan": (torch.atan, lambda x: 1 / (1 + x**2)),
    }
    function, derivative = functions[name]
    far = step * torch.arange(int(limit / step) + 5, dtype=torch.float64)
    low, high = -far.clamp(min=1.0) - 1, torch.zeros_like(far)
    for _ in range(60):
        middle = (low + high) / 2
        below = derivative(middle) * (far - middle) + function(middle) <= function(far)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    node.d_lower, node.d_upper = low.float(), -low.float()
    node.step_pre, node.x_limit = step, limit
