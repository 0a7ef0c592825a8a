"""What must hold together: dependency directions, packaging, documentation of the public surface."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import plugengine
import plugengine.kernel
from plugengine import hookspecs

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "plugengine"
DRIVERS = sorted(path for path in (ROOT / "drivers").iterdir() if path.is_dir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# The rooms of plugengine/, from the top floor down: a room may import from those in the rows below it, never from its
# neighbours or from above. A new room has no row until somebody gives it one, and the test says so.
FLOORS = (
    ("__main__", "warm"),
    ("cli",),
    ("api", "bench", "scaffold"),
    ("engine", "testing"),
    ("build",),
    ("operations",),
    ("monitor",),
    ("containers",),
    ("runtime",),
    ("networks",),
    ("site",),
    ("images", "mounts", "namespaces", "security", "volumes"),
    ("plugins",),
    ("hookspecs", "state", "streams"),
    ("objects",),
    ("cgroups", "hookmarks", "spec", "trees", "workers"),
    ("bundle",),
    ("model",),
    ("errors", "kernel", "quantities"),
    ("__init__",),
)
# `import plugengine` costs nothing, as its names are imported at first use; so it may name any room.
FACADE = "__init__"

PUBLIC_NAMES = set(plugengine.__all__)


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module a file imports from the project, those of type checking left out."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "plugengine":
                yield from (f"plugengine.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def core_files() -> list[Path]:
    """Return every Python file of the core."""
    return sorted(path for path in CORE.rglob("*.py"))


def room_of(module: str) -> str:
    """Return the room of a dotted module name: the word after `plugengine`, or `__init__` for a public name."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else FACADE
    return FACADE if room in PUBLIC_NAMES else room


def rooms_in_the_tree() -> set[str]:
    """Return every package and module directly below plugengine/."""
    return {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def test_every_room_is_on_exactly_one_floor() -> None:
    assert sorted(room for floor in FLOORS for room in floor) == sorted(rooms_in_the_tree())


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_between_rooms_point_down(path: Path) -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    if own == FACADE:
        return
    for module in imports_of(path):
        if module.split(".")[0] != "plugengine" or room_of(module) == own:
            continue
        assert floor_of[own] < floor_of[room_of(module)], f"{path.relative_to(ROOT)}: imports {module} from above"


@pytest.mark.parametrize("path", sorted((CORE / "kernel").glob("*.py")), ids=lambda path: path.name)
def test_the_kernel_door_imports_nothing_else_of_the_project(path: Path) -> None:
    strangers = [
        name for name in imports_of(path) if name.startswith("plugengine") and not name.startswith("plugengine.kernel")
    ]
    assert [name for name in strangers if name != "plugengine"] == []


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_names_no_driver(path: Path) -> None:
    packages = {f"plugengine_{driver.name}" for driver in DRIVERS}
    assert not packages & {name.split(".")[0] for name in imports_of(path)}
    if path.is_relative_to(CORE / "kernel"):
        return  # filesystems and links of the kernel are called so too
    assert re.findall(r"""["'](overlay|fuse_union|bridge|macvlan|cni)["']""", path.read_text()) == []


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_ctypes_and_ioctl_stay_behind_the_kernel_door(path: Path) -> None:
    if path.is_relative_to(CORE / "kernel"):
        return
    assert not {"ctypes", "fcntl.ioctl"} & set(imports_of(path))
    assert "ioctl(" not in path.read_text()


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda path: path.name)
def test_every_driver_folder_is_packaged_and_has_an_entry_point(driver: Path) -> None:
    package = f"plugengine_{driver.name}"
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert f"drivers/{driver.name}/{package}" in wheel
    assert f"drivers/{driver.name}" in PROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"]
    points = PROJECT["project"]["entry-points"]
    targets = {value.split(":")[0] for group in points.values() for value in group.values()}
    assert package in targets
    assert (driver / package / "py.typed").exists()


@pytest.mark.parametrize(
    "path", [path for driver in DRIVERS for path in sorted(driver.rglob("*.py"))], ids=lambda path: path.name
)
def test_drivers_import_public_names_only(path: Path) -> None:
    own = path.relative_to(ROOT / "drivers").parts[1]
    for name in imports_of(path):
        if name.startswith("plugengine."):
            assert name.split(".")[1] in {*hookspecs.PUBLIC_MODULES, *PUBLIC_NAMES}, (
                f"{path}: {name} is private to the engine"
            )
        if name.startswith("plugengine_"):
            assert name.split(".")[0] == own, f"{path}: imports another driver"


def test_the_lint_of_drivers_bans_every_private_room() -> None:
    lint = tomllib.loads((ROOT / "drivers" / "ruff.toml").read_text())
    banned = {name.removeprefix("plugengine.") for name in lint["lint"]["flake8-tidy-imports"]["banned-api"]}
    dunder = {room for room in rooms_in_the_tree() if room.startswith("__")}
    assert banned == rooms_in_the_tree() - dunder - set(hookspecs.PUBLIC_MODULES)


def hooks() -> list[tuple[str, str]]:
    """Return (class, hook) of the contract."""
    return [
        (spec.__name__, name)
        for spec in hookspecs.SPECS.values()
        for name, _function in inspect.getmembers(spec, inspect.isfunction)
        if name.startswith("pe_")
    ]


@pytest.mark.parametrize(("spec", "hook"), hooks(), ids=lambda value: value)
def test_every_hook_is_documented_and_typed(spec: str, hook: str) -> None:
    function = getattr(getattr(hookspecs, spec), hook)
    assert inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(
        parameter.annotation is not inspect.Parameter.empty
        for name, parameter in signature.parameters.items()
        if name != "self"
    )


@cache
def words_of_tests() -> set[str]:
    """Return every name in the tests, and every hook named in a text of theirs."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\bpe_[a-z_]+\b", node.value))
    return found


@cache
def verbs_called() -> set[tuple[str, str]]:
    """Return (kind, verb) of every hook the typed wrappers call, and ("hooks", name) of those called by name."""
    called: set[tuple[str, str]] = set()
    for path in core_files():
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and name.startswith("pe_"):
                called.add(("hooks", name))
    tree = ast.parse((CORE / "plugins" / "drivers.py").read_text())
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        groups = [each.value.value for each in kind.body
                  if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)]  # fmt: skip
        for node in ast.walk(kind):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                if node.func.attr in ("_ask", "_do", "_record", "_try") and isinstance(first, ast.Constant):
                    called |= {(str(group), str(first.value)) for group in groups or [""]}
    return called


@pytest.mark.parametrize("hook", [name for _spec, name in hooks()])
def test_every_hook_is_called_by_the_core_and_named_in_a_test(hook: str) -> None:
    _pe, kind, verb = [*hook.split("_", 2), ""][:3]
    called = verbs_called()
    assert {("hooks", hook), (kind, verb), ("", verb)} & called, "no one calls it"
    assert hook in words_of_tests(), "no test names it"


def test_the_kernel_door_names_every_room_behind_it() -> None:
    assert plugengine.kernel.__all__ == sorted(path.stem for path in (CORE / "kernel").glob("[a-z]*.py"))


def test_the_contract_fits_in_one_file_of_four_screens() -> None:
    assert len((CORE / "hookspecs.py").read_text().splitlines()) <= 380


def test_every_public_name_can_be_imported() -> None:
    package = importlib.import_module("plugengine")
    for name in package.__all__:
        assert getattr(package, name) is not None


def decisions() -> list[Path]:
    """Return every decision record."""
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_has_a_title_a_status_and_a_line_in_the_index(path: Path) -> None:
    title, _, status, *_ = path.read_text().splitlines()
    assert title.startswith(f"# {path.stem[:4]}: ")
    found = re.fullmatch(r"Status: (in force|replaced by \[\d{4}\]\(.*\))\.", status)
    assert found, f"{path.name}: {status!r} is not a status"
    line = f"| {path.stem[:4]} | [{title[8:]}]({path.name}) | {found[1]} |"
    assert line in (path.parent / "README.md").read_text().splitlines()


def test_every_page_is_in_the_index_of_the_documentation() -> None:
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text()
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md") if path.parent.name != "decisions"}
    assert sorted(page for page in pages - {"README.md"} if f"({page})" not in index) == []


def test_what_a_whiteout_is_stands_in_one_place() -> None:
    said = [
        path.relative_to(ROOT)
        for path in [*core_files(), *(each for driver in DRIVERS for each in sorted(driver.rglob("*.py")))]
        if re.search(r"""["'](trusted\.overlay\.(opaque|redirect|metacopy)|\.wh\.)""", path.read_text())
    ]
    # The kit says by itself what a layer is.
    assert [path for path in said if "testing" not in path.parts] == [Path("plugengine/trees/whiteouts.py")]
