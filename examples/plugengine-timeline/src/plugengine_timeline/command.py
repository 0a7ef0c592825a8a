"""`pe timeline CONTAINER`."""

from __future__ import annotations

import json
import os
import shutil

import click

from plugengine_timeline import DIRECTORY
from plugengine_timeline.chart import draw, last_life

_LEAST_WIDTH = 20
_COLUMNS_BEFORE = 58


@click.command()
@click.argument("container")
def timeline(container: str) -> None:
    """Draw when each step of a container's last start began and ended; CONTAINER is its id or the beginning of it."""
    try:
        found = [name for name in os.listdir(DIRECTORY) if name.startswith(container)]
    except FileNotFoundError:
        found = []
    if len(found) != 1:
        raise click.ClickException(f"container {container}: {'several begin so' if found else 'nothing was noted'}")
    with open(f"{DIRECTORY}/{found[0]}", encoding="utf-8") as stream:
        notes = [json.loads(line) for line in stream]
    width = max(shutil.get_terminal_size().columns - _COLUMNS_BEFORE, _LEAST_WIDTH)
    for line in draw(last_life(notes), width):
        click.echo(line.rstrip())
