"""What a container runs, held against what a docker daemon answered; see `make_docker_commands`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from plugengine.cli.commands.ps import describe
from plugengine.cli.commands.run import run
from plugengine.cli.spec import Surroundings, container_spec
from plugengine.errors import UsageError
from plugengine.objects import Container
from plugengine.spec import CommandLine, ContainerSpec, DriverChoice, ImageConfig, command_line, required_argv

AROUND: Final = Surroundings(environ={}, directory="/", processors=1)
ROWS: Final[list[dict[str, Any]]] = json.loads(Path(__file__).with_name("docker_commands.json").read_text())["rows"]
ANSWERED: Final = [row for row in ROWS if "error" not in row]


def words(given: list[str] | None) -> tuple[str, ...]:
    return tuple(given or ())


def config_of(row: dict[str, Any]) -> ImageConfig:
    return ImageConfig(entrypoint=words(row["image_entrypoint"]), cmd=words(row["image_cmd"]))


def spec_of(row: dict[str, Any]) -> ContainerSpec:
    """Return what the caller said: by the command line, or by the library, whose words are those of docker's API."""
    if row["by"] == "client":
        line = ["--entrypoint", row["entrypoint"], "image", *row["command"]]
        values = dict(run.make_context("run", line).params)
        image, *rest = values.pop("words")
        return container_spec(image, tuple(rest), values, AROUND)
    entrypoint = row["entrypoint"]
    return ContainerSpec(
        image="image", entrypoint=None if entrypoint is None else tuple(entrypoint), command=words(row["command"])
    )


def say(row: dict[str, Any]) -> str:
    keys = ("image_entrypoint", "image_cmd", "by", "entrypoint", "command")
    return " ".join(json.dumps(row[key]) for key in keys)


@pytest.mark.parametrize("row", ANSWERED, ids=say)
def test_entrypoint_and_command_combine_as_in_docker(row: dict[str, Any]) -> None:
    spec, config = spec_of(row), config_of(row)
    assert required_argv(spec, config) == tuple(row["argv"])
    assert command_line(spec, config) == CommandLine(words(row["Entrypoint"]), words(row["Cmd"]))


@pytest.mark.parametrize("row", [row for row in ROWS if "error" in row], ids=say)
def test_what_docker_refuses_for_want_of_a_command_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="run image: no command given, and the image has none"):
        required_argv(spec_of(row), config_of(row))


@pytest.mark.parametrize("row", ANSWERED, ids=say)
def test_the_list_of_containers_shows_what_runs(row: dict[str, Any]) -> None:
    container = Container(
        id="0" * 64,
        name="web",
        status="exited",
        created_ns=0,
        image_id="",
        image_name="image",
        spec=spec_of(row),
        drivers=DriverChoice(storage="vfs", network="none", cgroup="v1", namespace="standard"),
        config=config_of(row),
    )
    assert describe(container, now_ns=0, whole=True)["Command"] == f'"{" ".join(row["argv"])}"'
