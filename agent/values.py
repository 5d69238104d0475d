"""Frozen dataclasses whose making costs a fifth of ``@dataclass(frozen=True)``: several hundred are made at each start.

The standard decorator compiles six methods for each class. Here four are shared by all classes, and the one that
differs, ``__init__``, is compiled when the first value is made. To ``dataclasses`` (fields, replace, asdict) and to
type checkers such a class is a frozen dataclass. Not covered, and refused: ``init=False`` and keyword-only fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, dataclass_transform

C = TypeVar("C", bound=type[Any])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: C) -> C:
    """Make a frozen dataclass of a class. Raises TypeError for a field that is ``init=False`` or keyword-only."""
    made: Any = cls
    own = made.__dict__
    made.__doc__ = own.get("__doc__") or made.__name__  # dataclass would render the signature
    dataclass(init=False, repr=False, eq=False)(made)
    every = fields(made)
    if any(each.kw_only or not each.init for each in every):
        raise TypeError(f"{made.__qualname__} has a field that values cannot have")
    _check_order(made, every)
    made._values = _reader([each.name for each in every if each.compare])
    made._hashed = _reader([each.name for each in every if (each.compare if each.hash is None else each.hash)])
    for name, method in _SHARED.items():
        if own.get(name) is None:  # a class with an __eq__ of its own has None for __hash__
            setattr(made, name, method)
    made.__init__ = _first_init(made, every)
    return cls


def _check_order(cls: type, made: tuple[Field[Any], ...]) -> None:
    defaults = [each.default is not MISSING or each.default_factory is not MISSING for each in made]
    if sorted(defaults) != defaults:
        raise TypeError(f"{cls.__qualname__} has a field without a default behind one that has one")


def _reader(names: list[str]) -> Any:
    """What reads these attributes: a tuple, or the value of a single one."""
    return staticmethod(attrgetter(*names) if names else lambda _value: ())


def _first_init(cls: Any, made: tuple[Field[Any], ...]) -> Callable[..., None]:
    """An ``__init__`` that compiles the real one and takes its place; two threads at once make the same."""

    def first(self: Any, *arguments: Any, **named: Any) -> None:
        real = cls.__init__ = _compile_init(cls, made)
        real(self, *arguments, **named)

    return first


def _compile_init(cls: type, made: tuple[Field[Any], ...]) -> Callable[..., None]:
    scope: dict[str, Any] = {"_absent": _ABSENT}
    parameters, lines = ["_self"], []
    for each in made:
        given = each.name
        if each.default is not MISSING:
            scope[f"_default_{each.name}"] = each.default
            parameters.append(f"{each.name}=_default_{each.name}")
        elif each.default_factory is not MISSING:
            scope[f"_make_{each.name}"] = each.default_factory
            parameters.append(f"{each.name}=_absent")
            given = f"_make_{each.name}() if {each.name} is _absent else {each.name}"
        else:
            parameters.append(each.name)
        lines.append(f"    _own[{each.name!r}] = {given}\n")
    begin = "    _own = _self.__dict__\n" if made else "    pass\n"
    end = "    _self.__post_init__()\n" if hasattr(cls, "__post_init__") else ""
    exec(f"def __init__({', '.join(parameters)}):\n{begin}{''.join(lines)}{end}", scope)
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> Any:
    return self._values(self) == self._values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash((self._hashed(self),))


def _setattr(self: Any, name: str, _value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


_ABSENT = object()
_SHARED = {"__repr__": _repr, "__eq__": _eq, "__hash__": _hash, "__setattr__": _setattr, "__delattr__": _delattr}
