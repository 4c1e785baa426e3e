"""Frozen dataclasses as pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax

Class = TypeVar("Class", bound=type)


def register_pytree_dataclass(cls: Class, *, static: Sequence[str] = ()) -> Class:
    """Register a frozen dataclass as a pytree whose fields are leaves, except the ``static`` ones.

    ``jax.tree_util.register_dataclass`` is not used: with jaxlib 0.10.2 the tree structures of two *different*
    classes with equal static fields compare equal, so that after a hash collision ``jit`` runs the program compiled
    for the other class (``Linf`` computed as ``L1``). Nor are ``__init__`` and its checks run on unflattening, since
    leaves may then be tracers or placeholders.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = set(static) - set(names)
    if unknown:
        raise ValueError(f"{cls.__name__} has no fields {sorted(unknown)}")
    data = [name for name in names if name not in static]

    def flatten(instance: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        children = tuple((jax.tree_util.GetAttrKey(name), getattr(instance, name)) for name in data)
        return children, tuple(getattr(instance, name) for name in static)

    def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> Any:
        instance: Any = object.__new__(cls)
        for name, value in (*zip(data, children, strict=True), *zip(static, aux, strict=True)):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls
