"""Driver options: what was written, as values of their kinds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from plugengine import quantities
from plugengine.errors import UsageError
from plugengine.model import Option, OptionKind, OptionValue
from plugengine.state.names import known_names


def read(option: Option, text: str) -> OptionValue:
    """Return the value of an option.

    Raises:
        ValueError: It is none; the message says why.
    """
    kind = option.kind
    if kind is OptionKind.CHOICE:
        if text not in option.choices:
            raise ValueError(f"not {' or '.join(option.choices)}")
        return text
    if kind is OptionKind.FLAG:
        return quantities.switch(text)
    if kind is OptionKind.INTEGER:
        return quantities.integer(text, least=option.least, most=option.most)
    if kind is OptionKind.SIZE:
        return _bounded(quantities.size(text), option)
    if kind is OptionKind.DURATION:
        return _bounded(quantities.duration(text), option)
    if kind is OptionKind.PATH and not os.path.isabs(text):
        raise ValueError("not an absolute path")
    if "\0" in text:
        raise ValueError("has a null byte in it")
    return text


def _bounded(number: float, option: Option) -> float:
    if option.least is not None and number < option.least:
        raise ValueError(f"less than {option.least}")
    if option.most is not None and number > option.most:
        raise ValueError(f"more than {option.most}")
    return number


def defaults(options: Sequence[Option]) -> dict[str, OptionValue]:
    """Return the default of every option, None where it has none.

    Raises:
        ValueError: A default is no value of its option.
    """
    return {option.name: None if option.default is None else read(option, option.default) for option in options}


def typed(
    options: Sequence[Option], given: Mapping[str, OptionValue], *, whose: str = "", lenient: bool = False
) -> dict[str, OptionValue]:
    """Return a value for every option: what was given, else its default, else None; see `written`."""
    return {**defaults(options), **written(options, given, whose=whose, lenient=lenient)}


def written(
    options: Sequence[Option], given: Mapping[str, OptionValue], *, whose: str = "", lenient: bool = False
) -> dict[str, OptionValue]:
    """Return the values of the options given.

    Args:
        options: Those there are.
        given: Text as it was written; what is a value already stays as it is.
        whose: "storage driver overlay", for messages.
        lenient: What cannot be understood is taken as not given: nothing must keep a container from being removed.

    Raises:
        UsageError: An option there is not, or a value it cannot have.
    """
    known = {option.name: option for option in options}
    found: dict[str, OptionValue] = {}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            if lenient:
                continue
            raise UsageError(f"{whose}: no option {name}", hint=known_names("options", name, list(known)))
        if not isinstance(value, str):
            found[name] = value
            continue
        try:
            found[name] = read(option, value)
        except ValueError as exc:
            if not lenient:
                raise UsageError(f"{whose}: option {name}={value}: {exc}", hint=option.help) from None
    return found
