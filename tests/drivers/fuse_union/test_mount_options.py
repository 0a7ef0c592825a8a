"""The words and options of pe-fuse-union mean what mount(8) and the kernel's overlayfs say they mean."""

from __future__ import annotations

import pytest
from plugengine_fuse_union.mount_options import CommandLine, MountOptions, parse_options, parse_words, split_options

from plugengine.errors import UsageError
from plugengine.kernel.mount import MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/m", "-o", "a"], CommandLine(target="/m", options="a")),
        (["-o", "a", "/m"], CommandLine(target="/m", options="a")),
        (["-oa", "/m"], CommandLine(target="/m", options="a")),
        (["none", "/m", "-o", "a", "-o", "b"], CommandLine(target="/m", source="none", options="a,b")),
        (["/m", "-f"], CommandLine(target="/m", foreground=True)),
        (["/m", "-n", "-s", "-v", "-t", "fuse.x", "-N", "4"], CommandLine(target="/m")),
        (["/m", "-r"], CommandLine(target="/m", options="ro")),
        (["--", "-m"], CommandLine(target="-m")),
        (["-V"], CommandLine(target=None, show="version")),
        (["a", "b", "c", "--help"], CommandLine(target=None, show="help")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_are_understood_in_any_order(words: list[str], expected: CommandLine) -> None:
    assert parse_words(words) == expected


@pytest.mark.parametrize("words", [[], ["a", "b", "c"], ["--unknown", "/m"], ["/m", "-o"], ["/m", "-t"]], ids=" ".join)
def test_words_that_are_not_understood_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_words(words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a,,b,", ["a", "b"]),
        (r"a\,b,c", [r"a\,b", "c"]),
        (r"a\\,b", [r"a\\", "b"]),
        ('context="u:r:t:s0:c1,c2",ro', ['context="u:r:t:s0:c1,c2"', "ro"]),
        ('lowerdir=/a"b,upperdir=/c"d', ['lowerdir=/a"b', 'upperdir=/c"d']),
        ('lowerdir="/a,ro', ['lowerdir="/a', "ro"]),
        ("end\\", ["end\\"]),
    ],
)
def test_options_are_split_at_commas_that_are_neither_escaped_nor_quoted(text: str, expected: list[str]) -> None:
    assert split_options(text) == expected


@pytest.mark.parametrize(
    ("text", "lowers"),
    [
        ("lowerdir=/a", ("/a",)),
        ("lowerdir=/a:/b:c", ("/a", "/b", "c")),
        (r"lowerdir=/a\:b:/c\,d:/e\\:/f", ("/a:b", "/c,d", "/e\\", "/f")),
        ("lowerdir=/a\\", ("/a\\",)),
        ("lowerdir=/a=b", ("/a=b",)),
        ("lowerdir=/old,lowerdir=/new", ("/new",)),
        (r"lowerdir=/a,lowerdir+=/b:c,lowerdir+=/d\,e", ("/a", "/b:c", "/d,e")),
        ("lowerdir=/é/\udcff", ("/é/\udcff",)),
    ],
)
def test_layers_are_paths_between_colons(text: str, lowers: tuple[str, ...]) -> None:
    assert parse_options(text) == MountOptions(lowers=lowers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"upperdir=/u\:1,workdir=/w\,2", {"upper": "/u:1", "work": "/w,2"}),
        ("rw,ro", {"flags": MS_RDONLY}),
        ("ro,rw", {}),
        ("rw,noatime,nosuid,nodev,dev,suid", {"flags": MS_NOATIME}),
        ("nosuid,nodev", {"flags": MS_NOSUID | MS_NODEV}),
        ("volatile", {"durable": False}),
        ("fsync=0", {"durable": False}),
        ("fsync=1", {}),
        ("size=2m,upperdir=/u,workdir=/w", {"size": 2 << 20, "upper": "/u", "work": "/w"}),
        (r"trace=/t\,1", {"trace": "/t,1"}),
        ("passthrough=off", {"passthrough": False}),
        ("uidmapping=0:10:1:1:100:5,gidmapping=0:20:2", {"uids": ((0, 10, 1), (1, 100, 5)), "gids": ((0, 20, 2),)}),
        ('context="a,b"', {"labels": ('context="a,b"',)}),
        ("redirect_dir=on,metacopy=on", {"metacopy": True}),
        ("redirect_dir=nofollow,metacopy=off", {"follow": False}),
        ("index=off,xino=auto,userxattr,allow_other,x-anything=1,_netdev,no_such", {}),
        ("xattr_permissions=0", {}),
    ],
)
def test_options_change_what_they_say_and_unknown_ones_nothing(text: str, expected: dict[str, object]) -> None:
    assert parse_options(f"lowerdir=/l,{text}") == MountOptions(lowers=("/l",), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "lowerdir"),
        ("upperdir=/u,workdir=/w", "lowerdir"),
        ("lowerdir=", "lowerdir"),
        ("lowerdir=/a::/b", "lowerdir"),
        ("lowerdir=/l,upperdir=/u", "workdir"),
        ("lowerdir=/l,upperdir=,workdir=/w", "upperdir"),
        ("lowerdir=/l,uidmapping=0:1", "uidmapping"),
        ("lowerdir=/l,uidmapping=0:x:1,gidmapping=0:0:1", "uidmapping"),
        ("lowerdir=/l,uidmapping=0:1:1", "gidmapping"),
        ("lowerdir=/l,squash_to_root", "squash_to_root"),
        ("lowerdir=/l,upperdir=/u,workdir=/w,size=much", "size"),
        ("lowerdir=/l,size=1m", "size"),
        ("lowerdir=/l,xattr_permissions=2", "xattr_permissions"),
    ],
)
def test_what_cannot_be_meant_or_must_not_be_ignored_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_options(text)
