"""The exceptions of the engine; each class knows its exit code.

PlugengineError                 125  anything the engine or a driver could not do
├── UsageError                  125  a value the caller gave is not understood
├── NotFoundError               125  no such container, image, volume, driver …
├── ConflictError               125  a name, port or state is already taken
├── NotSupportedError           125  this host or driver cannot do it; another may
├── DriverError                 125  a driver failed; nothing was made, or all of it removed
├── DriverLoadError             125  a driver cannot be imported or breaks the contract
├── ImageError                  125  an archive, layer or manifest is damaged, hostile or too large
├── StateError                  125  the state database or a state directory is unusable
├── NoSpaceError                125  the filesystem is full
└── CommandError                     the command inside the container cannot be started
    ├── NotExecutableError      126
    └── CommandNotFoundError    127
"""

from __future__ import annotations


class PlugengineError(Exception):
    """Base of every error the engine raises on purpose.

    Args:
        message: One line "what, on what, why", lower case, no full stop.
        hint: What a person can do about it; shown on a line of its own.
    """

    exit_code = 125

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PlugengineError):
    """A value the caller gave is not understood."""


class NotFoundError(PlugengineError):
    """The object named does not exist."""


class ConflictError(PlugengineError):
    """The name, port or state asked for is already taken."""


class NotSupportedError(PlugengineError):
    """This host or this driver cannot do it; another may."""


class DriverError(PlugengineError):
    """A driver failed; nothing was made, or all of it was removed again."""


class DriverLoadError(PlugengineError):
    """A driver cannot be imported, or breaks the contract."""


class ImageError(PlugengineError):
    """An archive, layer or manifest is damaged, hostile or too large."""


class StateError(PlugengineError):
    """The state database or a state directory is unusable."""


class NoSpaceError(PlugengineError):
    """The filesystem is full."""


class CommandError(PlugengineError):
    """The command inside the container cannot be started."""


class NotExecutableError(CommandError):
    """The command exists but cannot be executed."""

    exit_code = 126


class CommandNotFoundError(CommandError):
    """The command does not exist in the container."""

    exit_code = 127
