"""Import torchvision and timm beside a PyTorch of another build."""

import sys

import pytest

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries = []  # what torch.library defines lasts as long as the object


def import_vision(name):
    """The module ``name`` of torchvision or timm (which imports torchvision); skips the test if it is not installed.

    The wheels of torchvision contain compiled operators for one build of PyTorch. Beside another one, such as the
    CPU-only build, they cannot be loaded, and the import fails: it describes the shapes of ``nms``, which does not
    exist then. The networks use none of these operators, so declaring them is enough.
    """
    torch = pytest.importorskip("torch")
    try:
        __import__(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for module in [module for module in sys.modules if module.split(".")[0] in ("torchvision", "timm")]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            library.define(operator)
        _libraries.append(library)
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise
        pytest.skip(f"{error.name} is not installed", allow_module_level=True)
    return sys.modules[name]
