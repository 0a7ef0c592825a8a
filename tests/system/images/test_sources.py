"""Image sources of installed packages: real wheels, through the real `pe`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe, need_tool
from tests.system.images import archives as a
from tests.system.packages import Package
from tests.system.test_bad_drivers import Plugged, plug

NONE = ("--net", "none")
RUN = ("run", "--rm", *NONE)
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "image-sources.md").read_text()
FROM_THE_PAGE = re.findall(r"```python title=acme_images.py\n(.*?)```", PAGE, re.DOTALL)

# The default source: makes a root filesystem of what another image has, and writes down what it was asked.
DEFAULT = """
import os, shutil
from plugengine.errors import NotFoundError
from plugengine.hookspecs import hookimpl

@hookimpl
def pe_image_sources():
    return {"": "pe_test_default:resolve"}

def resolve(store, reference, *, pull, progress):
    with open(os.environ["ASKED"], "a") as stream:
        print(pull, reference, file=stream)
    if reference.startswith("none"):
        raise NotFoundError(f"image {reference}: not in the test's registry")
    if progress is not None:
        progress(f"fetch {reference}", 1, 2)
    with open(os.environ["ROOTFS"], "rb") as stream:
        image = store.import_rootfs(stream, reference, config={"Cmd": ["echo", reference]})
    return image
"""
SOURCE = """
from plugengine.hookspecs import hookimpl

@hookimpl
def pe_image_sources():
    return {answer}

def resolve(store, reference, *, pull, progress):
    {body}
"""


def package(name: str, answer: str = "", body: str = "", source: str | None = None) -> Package:
    module = f"pe_test_{name}"
    text = SOURCE.format(answer=answer or {name: f"{module}:resolve"}, body=body or "return None")
    return Package(
        name=f"pe-test-{name}", source=text if source is None else source, points={f"plugengine.hooks:{name}": module}
    )


@pytest.fixture(scope="module")
def rootfs(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The files of host:base as one tar."""
    directory = tmp_path_factory.mktemp("base")
    script = "tar -C / --one-file-system --exclude=./out -cf /out/base.tar ."
    pe_env(*RUN, "-v", f"{directory}:/out", "host:base", "sh", "-c", script, check=True)
    return (directory / "base.tar").read_bytes()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pe]:
    """Roots of this test's own: sources name images."""
    engine = Pe(tmp_path / "root", tmp_path / "run")
    yield engine
    engine.clean()
    subprocess.run(engine.command("system", "reset", "--force"), env=engine.environ, check=True, capture_output=True)


def names(pe: Pe) -> set[str]:
    return set(pe("images", "--format", "{{.Repository}}:{{.Tag}}", check=True).stdout.split())


def test_the_source_of_the_page_works_for_run_and_create_under_every_pull_policy(
    own: Pe, tmp_path: Path, rootfs: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    [source] = FROM_THE_PAGE
    acme = Package(name="acme-images", source=source, points={"plugengine.hooks:acme_images": "acme_images"})
    pe = plug(own, tmp_path / "packages", [acme])
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("ACME_SHELF", str(shelf))
    archive = shelf / "tool-1.tar"
    archive.write_bytes(a.pack(a.docker_parts(rootfs, tags=[])))

    assert pe(*RUN, "--pull", "never", "acme:tool:1", "true").returncode == 125
    assert pe(*RUN, "acme:tool:1", "echo", "hello", check=True).stdout == "hello\n"
    assert pe("create", "--name", "made", *NONE, "--pull", "always", "acme:tool:1", "true", check=True)
    assert names(pe) == {"acme:tool:1"}

    archive.rename(shelf / "tool-2.tar")
    for policy in ("missing", "never"):
        assert pe(*RUN, "--pull", policy, "acme:tool:1", "echo", policy, check=True).stdout == f"{policy}\n"
    refused = pe(*RUN, "--pull", "always", "acme:tool:1", "true")
    assert (refused.returncode, refused.stderr) == (125, f"pe: archive {archive}: no such file\n")

    refused = pe("tag", "acme:tool:1", "acme:mine")
    assert "names that begin with acme: are made on demand" in refused.stderr
    pe("rm", "made", check=True)
    pe("rmi", "acme:tool:1", check=True)
    assert names(pe) == set()


def test_the_default_source_is_asked_for_names_the_store_does_not_have(
    own: Pe, tmp_path: Path, rootfs: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "rootfs").write_bytes(rootfs)
    monkeypatch.setenv("ASKED", str(asked))
    monkeypatch.setenv("ROOTFS", str(tmp_path / "rootfs"))
    pe = plug(own, tmp_path / "packages", [package("default", source=DEFAULT)])

    def questions() -> list[str]:
        lines = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return lines

    assert "is not in the store" in pe(*RUN, "--pull", "never", "web:1").stderr
    assert questions() == []
    assert pe(*RUN, "web:1", check=True).stdout == "web:1\n"
    assert questions() == ["missing web:1"]
    assert pe(*RUN, "web:1", check=True).stdout == "web:1\n"
    assert questions() == []
    assert pe(*RUN, "--pull", "always", "web:1", check=True).stdout == "web:1\n"
    assert questions() == ["always web:1"]
    assert pe("create", "--name", "made", *NONE, "localhost:5000/db", check=True)
    assert questions() == ["missing localhost:5000/db"]
    pe("rm", "made", check=True)
    assert names(pe) - {"<none>:<none>"} == {"web:1", "localhost:5000/db:latest"}  # the name moved to the new image
    # Other schemes, ids and damaged names are nothing for it.
    pe(*RUN, "host:base", "true", check=True)
    unknown = pe(*RUN, "--pull", "always", "sha256:" + "0" * 64)
    assert f"image sha256:{'0' * 64}: is not in the store" in unknown.stderr
    assert questions() == []
    assert "image none:1: not in the test's registry" in pe(*RUN, "none:1").stderr


def test_a_broken_source_breaks_nothing_else_and_is_named_where_it_is_missed(own: Pe, tmp_path: Path) -> None:
    wrong = [
        package("lost", source="import no_such_library\n"),
        package("raises", source=SOURCE.format(answer="1 / 0", body="return None")),
        package("listed", answer="['acme']"),
        package("typed", answer="{'typed': 3}"),
    ]
    pe = plug(own, tmp_path / "packages", wrong)
    pe(*RUN, "host:base", "true", check=True)
    pe("images", check=True)
    pe("tag", "host:base", "mine:1", check=True)
    pe(*RUN, "mine:1", "true", check=True)
    refused = pe(*RUN, "lost:x", "true")
    assert refused.returncode == 125
    assert refused.stderr.startswith("pe: image lost:x: is not in the store\n")
    for name, reason in (
        ("lost", "No module named 'no_such_library'"),
        ("raises", "pe_image_sources: ZeroDivisionError"),
        ("listed", "pe_image_sources: returned ['acme']"),
        ("typed", "pe_image_sources: returned {'typed': 3}"),
    ):
        assert f"{name} of pe-test-{name} 1.2: " in refused.stderr
        assert reason in refused.stderr


@pytest.mark.parametrize(
    ("answer", "body", "reason"),
    [
        ("", "raise ValueError('no shelf')", "ValueError: no shelf"),
        ("", "raise OSError(111, 'Connection refused')", "ConnectionRefusedError: "),
        ("", "return 'sha256:0'", "returned 'sha256:0', not an Image"),
        ("{'odd': 'pe_test_odd:nothing'}", "", "import pe_test_odd:nothing: AttributeError"),
        ("{'odd': 'no_such_module:x'}", "", "import no_such_module:x: ModuleNotFoundError"),
    ],
    ids=["raises", "refuses", "returns text", "no function", "no module"],
)
def test_what_a_source_does_wrong_is_told_with_its_distribution(
    own: Pe, tmp_path: Path, answer: str, body: str, reason: str
) -> None:
    pe = plug(own, tmp_path / "packages", [package("odd", answer, body)])
    refused = pe(*RUN, "odd:x", "true")
    assert refused.returncode == 125
    assert "image source odd: of pe-test-odd 1.2: " in refused.stderr
    assert reason in refused.stderr
    assert "internal error" not in refused.stderr
    pe(*RUN, "host:base", "true", check=True)


def test_a_scheme_two_distributions_offer_is_an_error_for_who_uses_it_only(own: Pe, tmp_path: Path) -> None:
    first = package("first", "{'acme': 'pe_test_first:resolve', 'host': 'pe_test_first:resolve'}")
    second = package("second", "{'acme': 'pe_test_second:resolve', 'other': 'pe_test_second:resolve'}")
    pe = plug(own, tmp_path / "packages", [first, second])
    refused = pe(*RUN, "acme:x", "true")
    assert "image source acme:: offered by pe-test-first 1.2 and pe-test-second 1.2" in refused.stderr
    assert "image source other: of pe-test-second 1.2: returned None" in pe(*RUN, "other:x", "true").stderr
    assert "image source host:: offered by pe-test-first 1.2 and plugengine" in pe(*RUN, "host:base", "true").stderr


def test_packages_are_listed_without_being_imported(own: Pe, tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    pe = plug(own, tmp_path / "packages", [package("eager", source=f"open({str(marker)!r}, 'w')\n")])
    for words in (("images",), ("ps", "-a"), ("image", "inspect", "nothing"), ("rmi", "nothing")):
        pe(*words)
    assert not marker.exists()


def test_to_get_an_image_anew_without_a_source_is_an_error(own: Pe, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(a.LOW)
    own("import", str(tmp_path / "root.tar"), "web:1", check=True)
    refused = own(*RUN, "--pull", "always", "web:1", "true")
    assert "image web:1: no source is installed to get it from anew" in refused.stderr


def test_progress_of_a_source_is_shown_on_a_terminal_and_erased(
    own: Pe, tmp_path: Path, rootfs: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("ROOTFS", str(tmp_path / "rootfs"))
    (tmp_path / "rootfs").write_bytes(rootfs)
    pe: Plugged = plug(own, tmp_path / "packages", [package("default", source=DEFAULT)])
    words = " ".join(pe.command(*RUN, "web:1"))
    terminal = [need_tool("script"), "-qec", words, "/dev/null"]
    done = subprocess.run(terminal, env=pe.environ, capture_output=True, stdin=subprocess.DEVNULL, check=True)
    line, _, rest = done.stdout.decode().rpartition("\r\x1b[K")
    assert "fetch web:1" in line
    assert rest == "web:1\r\n"
