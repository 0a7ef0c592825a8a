"""docs/writing-a-driver.md as a reader would follow it: its commands run, its edits made, its output compared."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Pe, need_root, need_tool
from tests.system.environments import Environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-a-driver.md"
FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "<!-- not run -->\n"
PUBLISHING = "# twine upload dist/*\n"
PROMPT = "# "
ANYTHING = "…"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # twine colours what is no terminal, too
TOO_LONG_S = 600
# What pip finds on the machine is enough, and nothing is asked of a network.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1"}
VENV = "python3 -m venv .venv"


class Block(NamedTuple):
    """A block of code of the page."""

    line: int
    language: str
    attribute: str
    text: str


def blocks() -> Iterator[Block]:
    """Yield what is to be done, in order."""
    page = PAGE.read_text()
    for found in FENCE.finditer(page):
        if page[: found.start()].endswith(NOT_RUN):
            assert found[3] == PUBLISHING, "only publishing is not run"
            continue
        yield Block(page.count("\n", 0, found.start()) + 1, found[1], found[2] or "", found[3])


class Shell:
    """One shell from the first command to the last, as a reader has it."""

    _MARK = "--- done"

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit code and what is seen."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{self._MARK} %d\\n' $?\n")
        self._bash.stdin.flush()
        seen: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(self._MARK):
                return int(line.removeprefix(self._MARK)), "".join(seen)
            seen.append(COLOUR.sub("", line))
        raise AssertionError(f"{command}: the shell ended: {''.join(seen)}")

    def close(self) -> None:
        """End it."""
        self._bash.communicate("exit\n")


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Return each command with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), []))
        else:
            found[-1][1].append(line)
    return found


def assert_shown(shown: list[str], seen: str, where: str) -> None:
    """Check that the lines shown are seen in this order; only `…` stands for anything, also for lines in between."""
    wanted = [ANYTHING if line == ANYTHING else _pattern(line) for line in shown]
    lines = [" ".join(line.split()) for line in seen.splitlines() if line.strip()]
    position = 0
    skipping = False
    for line, pattern in zip(shown, wanted, strict=True):
        if pattern == ANYTHING:
            skipping = True
            continue
        rest = range(position, len(lines)) if skipping else range(position, min(position + 1, len(lines)))
        position = next((number + 1 for number in rest if re.fullmatch(pattern, lines[number])), -1)
        assert position > 0, f"{where}: not seen: {line}\n{seen}"
        skipping = False
    assert not shown or skipping or position == len(lines), f"{where}: more is seen than shown:\n{seen}"


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part.strip()) for part in " ".join(line.split()).split(ANYTHING))


def whole(diff: str, directory: Path) -> str:
    """Return the diff with the line numbers that the page spares its readers."""
    name = re.search(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)
    assert name
    lines = (directory / name[1]).read_text().splitlines()
    head, *hunks = re.split(r"^@@\n", diff, flags=re.MULTILINE)
    result, shift, start = head, 0, 0
    for hunk in hunks:
        old = [line[1:] for line in hunk.splitlines() if line[0] in " -"]
        new = [line for line in hunk.splitlines() if line[0] in " +"]
        places = [at for at in range(start, len(lines)) if lines[at : at + len(old)] == old]
        assert places, f"{name[1]} has no such lines: {old}"
        start = places[0]
        result += f"@@ -{start + 1},{len(old)} +{start + 1 + shift},{len(new)} @@\n{hunk}"
        shift += len(new) - len(old)
        start += len(old)
    return result


def prepared(directory: Path) -> None:
    """Make the environment the page makes; what a network would bring is there already."""
    environment = Environment(directory)
    for name in ("pip", "pytest", "twine"):
        script = environment.bin / name
        code = f"import runpy\nrunpy.run_module({name!r}, run_name='__main__', alter_sys=True)\n"
        script.write_text(f"#!{environment.python}\n{code}")
        script.chmod(0o755)


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG_S)
def test_every_command_of_the_tutorial_does_what_is_shown(pe: Pe, tmp_path: Path) -> None:
    need_root()
    need_tool("patch")
    shell = Shell(tmp_path, {**pe.environ, **OFFLINE, "PLUGENGINE_WARM": "0"})
    try:
        for block in blocks():
            assert_followed(block, shell)
    finally:
        shell.close()
        pe("rm", "-f", "kept")


def assert_followed(block: Block, shell: Shell) -> None:
    """Do what a block says."""
    where = f"{PAGE.name}:{block.line}"
    if block.language == "console":
        steps = commands(block)
        code_wanted = int(block.attribute.removeprefix("exit=") or 0)
        for number, (command, shown) in enumerate(steps, 1):
            code, seen = shell.run(command) if command != VENV else made(shell)
            assert code == (code_wanted if number == len(steps) else 0), f"{where}: {command}: exit {code}\n{seen}"
            assert_shown(shown, seen, f"{where}: {command}")
        return
    directory = Path(shell.run("pwd")[1].strip())
    if block.language == "diff":
        diff = whole(block.text, directory)
        done = subprocess.run(
            ["patch", "-p1", "--no-backup-if-mismatch"],
            input=diff,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}\n{diff}"
    else:
        assert block.language == "python", where
        (directory / block.attribute.removeprefix("title=")).write_text(block.text)


def made(shell: Shell) -> tuple[int, str]:
    """Make the environment in the directory the shell is in."""
    prepared(Path(shell.run("pwd")[1].strip()) / ".venv")
    return 0, ""


def test_links_of_the_tutorial_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
    assert os.path.isdir(PAGE.parents[1] / "drivers" / "cgroup_v2")
    assert os.path.isdir(PAGE.parents[1] / "drivers" / "namespaces")


@pytest.mark.parametrize(
    ("shown", "seen", "fits"),
    [
        (["a", "b"], "a\nb\n", True),
        (["a"], "a\nb\n", False),
        (["a", ANYTHING], "a\nb\n", True),
        ([ANYTHING, "b"], "a\nb\n", True),
        (["b"], "a\nb\n", False),
        (["a  … c"], "a b b c\n", True),
        (["a … c"], "a b b d\n", False),
        ([], "a\n", True),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown: list[str], seen: str, *, fits: bool) -> None:
    if fits:
        assert_shown(shown, seen, "here")
        return
    with pytest.raises(AssertionError, match="seen"):
        assert_shown(shown, seen, "here")
