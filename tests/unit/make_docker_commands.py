"""Ask a docker daemon which command it makes of an image's and a caller's words; writes docker_commands.json.

    DOCKER_HOST=unix:///… python tests/unit/make_docker_commands.py

Nothing is started: containers are created, inspected and removed. The images are empty but for their configs.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import os
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("docker_commands.json")

IMAGE_ENTRYPOINTS = (None, ["/entry", "-e"])
IMAGE_COMMANDS = (None, ["image", "-i"])
ENTRYPOINTS: tuple[list[str] | None, ...] = (None, [], [""], ["/other"], ["/other", "-o"])  # of the API
COMMANDS: tuple[list[str], ...] = ([], ["mine", "-m"])


def docker(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the client."""
    return subprocess.run(["docker", *words], input=stdin, capture_output=True, check=False)


def make_image(entrypoint: list[str] | None, command: list[str] | None) -> str:
    """Return the id of a new image with that config."""
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    changes = [f"{key} {json.dumps(value)}" for key, value in (("ENTRYPOINT", entrypoint), ("CMD", command)) if value]
    flags = [word for change in changes for word in ("--change", change)]
    done = docker("import", *flags, "-", stdin=empty.getvalue())
    return done.stdout.decode().strip()


def inspect(container: str) -> dict[str, Any]:
    """Return what runs in a container; removes it."""
    found = json.loads(docker("inspect", container).stdout)[0]
    docker("rm", container)
    config = found["Config"]
    return {
        "argv": [found["Path"], *found["Args"]],
        "Entrypoint": config["Entrypoint"],
        "Cmd": config["Cmd"],
    }


def by_api(image: str, entrypoint: list[str] | None, command: list[str]) -> dict[str, Any]:
    """Create a container with these words; the client cannot say all of them."""
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    body = json.dumps({"Image": image, "Entrypoint": entrypoint, "Cmd": command})
    connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return inspect(answer["Id"]) if "Id" in answer else {"error": answer["message"]}


def by_client(image: str, entrypoint: str, command: list[str]) -> dict[str, Any]:
    """Create a container with `--entrypoint`."""
    done = docker("create", "--entrypoint", entrypoint, image, *command)
    if done.returncode:
        return {"error": done.stderr.decode().strip()}
    return inspect(done.stdout.decode().strip())


def rows() -> list[dict[str, Any]]:
    """Return every combination with docker's answer."""
    found = []
    for image_entrypoint, image_command in itertools.product(IMAGE_ENTRYPOINTS, IMAGE_COMMANDS):
        image = make_image(image_entrypoint, image_command)
        of_image = {"image_entrypoint": image_entrypoint, "image_cmd": image_command}
        for entrypoint, command in itertools.product(ENTRYPOINTS, COMMANDS):
            given: dict[str, Any] = {"entrypoint": entrypoint, "command": command}
            found.append({**of_image, "by": "api", **given, **by_api(image, entrypoint, command)})
        for word, command in itertools.product(("", "/other"), COMMANDS):
            said: dict[str, Any] = {"entrypoint": word, "command": command}
            found.append({**of_image, "by": "client", **said, **by_client(image, word, command)})
        docker("rmi", image)
    return found


def main() -> None:
    """Write the table."""
    version = docker("version", "--format", "{{.Server.Version}}").stdout.decode().strip()
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows())
    TABLE.write_text(f'{{"docker": "{version}", "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
