"""Images made of this machine's own files: complete, deterministic, cached, and of any program."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import NotFoundError, UsageError
from plugengine.images.sources.host.libraries import Libraries
from plugengine.images.store import ImageStore
from plugengine.spec import Image
from tests.conftest import need, need_tool
from tests.system.images.conftest import describe, open_store
from tests.waiting import PATIENCE_S


def run(image: Image, *command: str, user: str = "0:0") -> str:
    """Run a command in the image's only layer, with nothing of the host's environment."""
    [layer] = image.layers
    # $ORIGIN is found through /proc/self/exe.
    script = 'mount --bind /proc "$0/proc" && option=$1 && shift && exec chroot "$option" "$0" "$@"'
    environ = dict(entry.split("=", 1) for entry in image.config.env)
    done = subprocess.run(
        [need_tool("unshare"), "-m", "sh", "-c", script, layer, f"--userspec={user}", *command],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    """One store for the tests that only look."""
    made = open_store(tmp_path_factory.mktemp("shared") / "root")
    made.list()  # opens the database, which stays open from test to test
    yield made
    made.state.close()


def test_the_base_image_has_a_shell_and_tools_that_run(shared: ImageStore) -> None:
    image = shared.resolve("host:base")
    assert (image.names, image.config.cmd) == (("host:base",), ("bash",))
    script = "id -u; echo hi | tr a-z A-Z; awk 'BEGIN{print 6*7}'; sed --version | head -n1; find /etc -name passwd"
    out = run(image, "/bin/sh", "-c", script).split("\n")
    assert out[:3] == ["0", "HI", "42"]
    assert "/etc/passwd" in out


def test_every_program_of_the_base_image_finds_its_libraries(shared: ImageStore) -> None:
    image = shared.resolve("host:base")
    [layer] = image.layers
    loader = next(
        path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(layer + path)
    )
    libraries = Libraries()
    checked = 0
    for directory in ("usr/bin", "usr/sbin"):
        for name in os.listdir(f"{layer}/{directory}"):
            path = f"{layer}/{directory}/{name}"
            if os.path.islink(path) or (elf := libraries.elf(path)) is None or elf.interpreter is None:
                continue
            listing = run(image, loader, "--list", f"/{directory}/{name}")
            assert "not found" not in listing, path
            checked += 1
    assert checked > 80


def test_the_base_image_has_the_directories_and_users_programs_expect(shared: ImageStore) -> None:
    found = describe(shared.resolve("host:base").layers[0])
    modes = {name: oct(found[name]["mode"]) for name in ("tmp", "root", "var/tmp", "etc", "proc")}
    assert modes == {"tmp": "0o1777", "root": "0o700", "var/tmp": "0o1777", "etc": "0o755", "proc": "0o555"}
    assert b"nobody:x:65534:65534" in found["etc/passwd"]["content"]
    assert {entry["owner"] for entry in found.values()} == {(0, 0)}
    assert [found[name]["content"] for name in ("bin", "lib")] == [
        os.readlink(f"/{name}").encode() if os.path.islink(f"/{name}") else 0 for name in ("bin", "lib")
    ]
    assert not any(stat.S_ISSOCK(entry["type"]) or stat.S_ISBLK(entry["type"]) for entry in found.values())


def test_the_python_image_runs_the_interpreter_that_made_it(shared: ImageStore) -> None:
    image = shared.resolve("host:python")
    assert image.config.cmd == ("python3",)
    modules = (
        "asyncio, bz2, ctypes, hashlib, http.server, json, lzma, sqlite3, ssl, unittest, urllib.request, venv, zlib"
    )
    program = f"import sys, {modules}; print(sys.version); print(sys.prefix); ssl.create_default_context()"
    for name in ("python3", "python"):
        version, prefix = run(image, "/usr/bin/env", name, "-c", program).strip().rsplit("\n", 1)
        assert version == sys.version
        assert prefix in ("/usr", "/usr/local")


def test_the_python_image_works_for_users_other_than_root(shared: ImageStore) -> None:
    assert (
        run(shared.resolve("host:python"), "/usr/bin/env", "python3", "-c", "import json; print(7)", user="65534:65534")
        == "7\n"
    )


def test_the_python_image_starts_quickly_because_it_brings_compiled_modules(shared: ImageStore) -> None:
    [layer] = shared.resolve("host:python").layers
    before = set(describe(layer))
    run(shared.resolve("host:python"), "/usr/bin/env", "python3", "-c", "import json, argparse")
    assert set(describe(layer)) == before  # nothing had to be compiled and written
    names = [name for name in before if name.endswith(".pyc")]
    assert any("json/__pycache__/decoder" in name for name in names) or not _host_has_compiled_modules()


def _host_has_compiled_modules() -> bool:
    return os.path.exists(importlib.util.cache_from_source(json.decoder.__file__))


@pytest.mark.parametrize("interpreter", ["/usr/bin/python3"])
def test_the_python_image_can_be_made_by_the_distributions_interpreter(tmp_path: Path, interpreter: str) -> None:
    need_tool(interpreter)
    site = os.path.dirname(os.path.dirname(sys.modules["msgspec"].__file__ or ""))
    program = (
        "import sys; sys.path += [sys.argv[1], sys.argv[3]]\n"
        "from plugengine.images.sources.host import files\n"
        "tree, config = files.python()\n"
        "tree.build(sys.argv[2])\n"
    )
    target = tmp_path / "layer"
    target.mkdir()
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    done = subprocess.run(
        [interpreter, "-c", program, checkout, target, site], capture_output=True, text=True, check=False
    )
    need("the packages of this environment do not fit that interpreter" if "No module named" in done.stderr else None)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [need_tool("chroot"), target, "/usr/bin/python3", "-c", "import sys, ssl, sqlite3; print(sys.prefix)"],
        env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == "/usr\n"


# --- programs by path ---


def test_any_program_becomes_an_image_and_the_first_is_its_command(shared: ImageStore) -> None:
    image = shared.resolve("host:/usr/bin/env,/usr/bin/printf")
    assert image.config.cmd == ("/usr/bin/env",)
    assert run(image, "/usr/bin/printf", "x%sx", "y") == "xyx"
    [layer] = image.layers
    assert not os.path.exists(f"{layer}/usr/bin/bash")


def test_a_script_brings_its_interpreter(shared: ImageStore, tmp_path: Path) -> None:
    direct, by_env = tmp_path / "direct", tmp_path / "by-env"
    direct.write_text("#!/bin/sh -e\necho direct\n")
    by_env.write_text("#!/usr/bin/env sh\necho by env\n")
    for script in (direct, by_env):
        script.chmod(0o755)
    image = shared.resolve(f"host:{direct},{by_env}")
    assert run(image, str(direct)) == "direct\n"
    assert run(image, str(by_env)) == "by env\n"


def test_symlinks_on_the_way_to_a_program_are_kept(shared: ImageStore, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    shutil.copy("/bin/true", real / "program")
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "alias").symlink_to(tmp_path / "way/../way/program")
    image = shared.resolve(f"host:{tmp_path}/alias")
    run(image, f"{tmp_path}/alias")
    run(image, f"{tmp_path}/way/program")
    assert os.readlink(f"{image.layers[0]}{tmp_path}/way") == "real"


def test_a_library_that_only_the_hosts_cache_knows_is_found_in_the_image(shared: ImageStore, tmp_path: Path) -> None:
    gcc = need_tool("gcc")
    (tmp_path / "lib.c").write_text("int answer(void) { return 42; }\n")
    (tmp_path / "main.c").write_text("int answer(void);\nint main(void) { return answer() != 42; }\n")
    for name, flags in (
        ("origin", "-Wl,-rpath,$ORIGIN/../own"),
        ("absolute", f"-Wl,--disable-new-dtags,-rpath,{tmp_path}/own"),
    ):
        for directory in ("own", "bin"):
            (tmp_path / directory).mkdir(exist_ok=True)
        library = tmp_path / f"own/libanswer-{name}.so"
        subprocess.run([gcc, "-shared", "-fPIC", "-o", library, tmp_path / "lib.c"], check=True)
        program = tmp_path / f"bin/{name}"
        link: list[Any] = [gcc, "-o", program, tmp_path / "main.c", f"-L{tmp_path}/own", f"-lanswer-{name}", flags]
        subprocess.run(link, check=True)
        assert run(shared.resolve(f"host:{program}"), str(program)) == ""


@pytest.mark.parametrize(
    ("reference", "error", "match"),
    [
        ("host:", UsageError, "nothing is named"),
        ("host:bash", UsageError, "'bash' is no absolute path"),
        ("host:/bin/sh,", UsageError, "'' is no absolute path"),
        ("host:/no/such/program", NotFoundError, "no file /no/such/program on this machine"),
        ("host:/etc", NotFoundError, "no file /etc on this machine"),
        ("host:/etc/passwd", UsageError, "/etc/passwd is not executable"),
    ],
)
def test_a_name_that_makes_no_image_is_refused(
    store: ImageStore, reference: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        store.resolve(reference)
    assert store.list() == []


def test_a_program_whose_library_is_missing_is_refused_with_the_library(store: ImageStore, tmp_path: Path) -> None:
    gcc = need_tool("gcc")
    (tmp_path / "lib.c").write_text("int answer(void) { return 42; }\n")
    (tmp_path / "main.c").write_text("int answer(void);\nint main(void) { return answer(); }\n")
    library = tmp_path / "libgone.so"
    subprocess.run([gcc, "-shared", "-fPIC", "-o", library, tmp_path / "lib.c"], check=True)
    subprocess.run([gcc, "-o", tmp_path / "main", tmp_path / "main.c", f"-L{tmp_path}", "-lgone"], check=True)
    library.unlink()
    with pytest.raises(NotFoundError, match=f"program {tmp_path}/main: needs libgone.so, which"):
        store.resolve(f"host:{tmp_path}/main")


def test_what_the_headers_say_is_what_the_loader_uses() -> None:
    """The reader of ELF files against ldd, on this machine's own programs."""
    ldd = need_tool("ldd")
    libraries = Libraries()
    for program in ("/bin/bash", "/bin/ls", "/usr/bin/mount", os.path.realpath(sys.executable)):
        listing = subprocess.run([ldd, program], capture_output=True, text=True, check=True).stdout
        wanted = {line.split()[0]: os.path.realpath(line.split()[2]) for line in listing.splitlines() if "=>" in line}
        interpreter, found, missing = libraries.closure(program)
        assert missing == []
        assert {one.name: os.path.realpath(one.path) for one in found if one.name in wanted} == wanted
        assert interpreter is not None
        assert {one.name for one in found} - set(wanted) <= {os.path.basename(interpreter)}


# --- determinism and the cache ---


def test_two_machines_with_the_same_files_make_the_same_image(shared: ImageStore, store: ImageStore) -> None:
    one, two = shared.resolve("host:base"), store.resolve("host:base")
    assert (one.id, one.digest, one.diff_ids) == (two.id, two.digest, two.diff_ids)
    assert describe(one.layers[0]) == describe(two.layers[0])


def test_a_second_use_makes_nothing_and_is_quick(shared: ImageStore) -> None:
    for name, budget_s in (("host:base", 0.002), ("host:python", 0.004)):
        image = shared.resolve(name)
        before = os.stat(shared.files.layers).st_mtime_ns
        times = []
        for _ in range(9):
            begin = time.process_time()
            assert shared.resolve(name) == image
            times.append(time.process_time() - begin)
        assert os.stat(shared.files.layers).st_mtime_ns == before
        assert min(times) < budget_s, f"{name}: {min(times) * 1000:.2f} ms"


def test_a_program_that_changes_makes_a_new_image_and_the_old_one_stays(store: ImageStore, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    old = store.resolve(f"host:{program}")
    os.utime(program, ns=(0, 1_000))
    new = store.resolve(f"host:{program}")
    assert new.id != old.id
    assert (store.get(old.id).names, new.names) == ((), (f"host:{program}",))
    assert store.get(old.id).layers != new.layers


def test_an_image_that_was_removed_or_lost_a_layer_is_made_again(store: ImageStore) -> None:
    image = store.resolve("host:/bin/true")
    store.remove(image.id)
    assert store.resolve("host:/bin/true") == image
    shutil.rmtree(image.layers[0])
    again = store.resolve("host:/bin/true")
    assert again == image
    assert os.path.exists(f"{again.layers[0]}/bin/true")
    Path(store.files.sources, os.listdir(store.files.sources)[0]).write_bytes(b"{damaged")
    assert store.resolve("host:/bin/true") == image


def test_with_pull_never_nothing_is_made(store: ImageStore) -> None:
    with pytest.raises((NotFoundError, UsageError)):
        store.resolve("host:/bin/true", pull="never")
    image = store.resolve("host:/bin/true")
    assert store.resolve("host:/bin/true", pull="never") == image
