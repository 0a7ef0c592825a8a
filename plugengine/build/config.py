"""What instructions do to the config of an image; one way for builds, and for `--change` of import and commit."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from plugengine.build.dockerfile import Instruction, parse
from plugengine.errors import UsageError
from plugengine.images.ports import expand
from plugengine.quantities import duration_ns
from plugengine.runtime.signals import signal_number

_SHELL: Final = ("/bin/sh", "-c")
_NOT_AS_TRIGGER: Final = ("ONBUILD", "FROM", "MAINTAINER")
_SHORTEST_INTERVAL_NS: Final = 1_000_000
_INTERVALS: Final = {
    "--interval": "Interval",
    "--timeout": "Timeout",
    "--start-period": "StartPeriod",
    "--start-interval": "StartInterval",
}


def parse_changes(changes: Sequence[str], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a config as the instructions of `--change` make it; as in docker they are lines of one Dockerfile.

    Args:
        changes: Each one or more lines.
        config: The `config` object they begin with.

    Raises:
        UsageError: An instruction is not understood, or does not change the config.
    """
    lines = [change for change in changes for _ in change.split("\n")]
    changed = Config(config or {})
    for instruction in parse("\n".join(changes), lambda line: f"change {lines[line - 1]!r}"):
        changed.apply(instruction)
    return changed.config


class Config:
    """The `config` object of an image while instructions change it; see OCI image-spec, config.md.

    Args:
        config: What it begins with; copied.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: dict[str, Any] = dict(config)
        self._cmd_set = False  # by an instruction: ENTRYPOINT drops the CMD that came from elsewhere
        self._changes: Mapping[str, Callable[[Instruction], None]] = {
            "CMD": self._cmd,
            "ENTRYPOINT": self._entrypoint,
            "ENV": self._env,
            "EXPOSE": self._expose,
            "HEALTHCHECK": self._healthcheck,
            "LABEL": self._label,
            "ONBUILD": self._onbuild,
            "SHELL": self._shell,
            "STOPSIGNAL": self._stopsignal,
            "USER": self._user,
            "VOLUME": self._volume,
            "WORKDIR": self._workdir,
        }

    @property
    def env(self) -> dict[str, str]:
        """The variables that instructions may refer to."""
        return dict(entry.partition("=")[::2] for entry in self.config.get("Env") or ())

    def apply(self, instruction: Instruction) -> None:
        """Change the config.

        Raises:
            UsageError: The instruction does not change the config, or its arguments are wrong; the config is as it was.
        """
        change = self._changes.get(instruction.name)
        if change is None:
            raise instruction.fault(f"not one of {', '.join(self._changes)}")
        if instruction.flags and instruction.name != "HEALTHCHECK":
            raise instruction.fault(f"unknown flag {instruction.flags[0]}")
        if not (instruction.args or instruction.json or instruction.name == "ONBUILD"):
            raise instruction.fault("needs a value")
        change(instruction)

    # --- commands ---

    def _cmd(self, instruction: Instruction) -> None:
        self.config["Cmd"] = self._command(instruction)
        self._cmd_set = bool(instruction.args)

    def _entrypoint(self, instruction: Instruction) -> None:
        self.config["Entrypoint"] = self._command(instruction)
        if not self._cmd_set:
            self.config.pop("Cmd", None)

    def _command(self, instruction: Instruction) -> list[str]:
        shell = () if instruction.json else self.config.get("Shell") or _SHELL
        return [*shell, *instruction.args]

    def _shell(self, instruction: Instruction) -> None:
        if not instruction.json or not instruction.args:
            raise instruction.fault('needs a JSON list, such as ["/bin/bash", "-c"]')
        self.config["Shell"] = list(instruction.args)

    def _healthcheck(self, instruction: Instruction) -> None:
        kind, command = instruction.args[0].upper(), list(instruction.args[1:])
        if kind == "NONE":
            if command or instruction.flags:
                raise instruction.fault("NONE takes no arguments")
            self.config["Healthcheck"] = {"Test": ["NONE"]}
            return
        if kind != "CMD" or not command:
            raise instruction.fault("not CMD with a command, or NONE")
        test = ["CMD" if instruction.json else "CMD-SHELL", *command]
        self.config["Healthcheck"] = {"Test": test, **dict(_health_flags(instruction))}

    def _onbuild(self, instruction: Instruction) -> None:
        trigger = instruction.text.strip()[len("ONBUILD") :].strip()
        name = trigger.partition(" ")[0].upper()
        if name in _NOT_AS_TRIGGER:
            raise instruction.fault(f"{name} is not allowed as a trigger")
        if not trigger:
            raise instruction.fault("needs an instruction")
        self.config["OnBuild"] = [*(self.config.get("OnBuild") or ()), trigger]

    # --- pairs and sets ---

    def _env(self, instruction: Instruction) -> None:
        entries = list(self.config.get("Env") or ())
        for name, value in self._pairs(instruction):
            entry = f"{name}={value}"
            at = next((at for at, old in enumerate(entries) if old.partition("=")[0] == name), None)
            if at is None:
                entries.append(entry)
            else:
                entries[at] = entry
        self.config["Env"] = entries

    def _label(self, instruction: Instruction) -> None:
        self.config["Labels"] = {**(self.config.get("Labels") or {}), **dict(self._pairs(instruction))}

    def _pairs(self, instruction: Instruction) -> list[tuple[str, str]]:
        """Return the names and values; all see the variables as they were before the instruction."""
        env = self.env
        pairs = [
            (instruction.word(name, env), instruction.word(value, env))
            for name, value in zip(instruction.args[::3], instruction.args[1::3], strict=True)
        ]
        if not all(name for name, _ in pairs):
            raise instruction.fault("a name is empty")
        return pairs

    def _expose(self, instruction: Instruction) -> None:
        exposed = dict(self.config.get("ExposedPorts") or {})
        for word in (word for arg in instruction.args for word in instruction.words(arg, self.env)):
            try:
                # "8080:80" is a slip that docker forgives: what is exposed is the container's port.
                exposed.update({f"{number}/{protocol}": {} for number, protocol in expand(word.rpartition(":")[2])})
            except ValueError as exc:
                raise instruction.fault(str(exc)) from exc
        self.config["ExposedPorts"] = exposed

    def _volume(self, instruction: Instruction) -> None:
        paths = [instruction.word(arg, self.env) for arg in instruction.args]
        if not paths or not all(paths):
            raise instruction.fault("a path is empty")
        self.config["Volumes"] = {**(self.config.get("Volumes") or {}), **{path: {} for path in paths}}

    # --- single words ---

    def _user(self, instruction: Instruction) -> None:
        self.config["User"] = self._word(instruction)

    def _workdir(self, instruction: Instruction) -> None:
        path = posixpath.join("/", self.config.get("WorkingDir") or "", self._word(instruction))
        self.config["WorkingDir"] = "/" + posixpath.normpath(path).lstrip("/")

    def _stopsignal(self, instruction: Instruction) -> None:
        word = self._word(instruction)
        try:
            signal_number(word)
        except UsageError as exc:
            raise instruction.fault(str(exc)) from exc
        self.config["StopSignal"] = word

    def _word(self, instruction: Instruction) -> str:
        word = instruction.word(instruction.args[0], self.env)
        if not word:
            raise instruction.fault("is empty")
        return word


def _health_flags(instruction: Instruction) -> Iterator[tuple[str, int]]:
    for flag in instruction.flags:
        name, equals, text = flag.partition("=")
        if name == "--retries" and text.isascii() and text.isdigit() and len(text) < len("1000000000"):
            yield "Retries", int(text)
            continue
        if name not in _INTERVALS or not equals:
            raise instruction.fault(f"flag {flag} is not one of {', '.join((*_INTERVALS, '--retries'))} with a value")
        interval = duration_ns(text)
        if interval is None or 0 < interval < _SHORTEST_INTERVAL_NS:
            raise instruction.fault(f"{name} {text} is no duration of 1ms or more, such as 30s")
        yield _INTERVALS[name], interval
