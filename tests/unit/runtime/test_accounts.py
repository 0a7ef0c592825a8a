"""Users and groups from the image's own files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.errors import NotFoundError, UsageError
from plugengine.runtime.accounts import MAX_ID, Account, Accounts, resolve

ACCOUNTS = Accounts(
    passwd=b"root:x:0:0:root:/root:/bin/sh\n"
    b"# a comment:x:5:5::/:\n"
    b"broken line\n"
    b"toolarge:x:4294967296:0::/:\n"
    b"nonsense:x:-1:0::/:\n"
    b"alice:x:1000:100:Alice:/home/alice:/bin/sh\n"
    b"homeless:x:1001:1001:::\n"
    b"42:x:77:77::/tricky:\n"
    b"spark:x:2222\n"
    b"hive:x:3333:100\n"
    b"nothing:x\n"
    b"empty:x:\n",
    group=b"root:x:0:\nusers:x:100:\naudio:x:29:alice,bob\nvideo:x:44:bob, alice\nwheel:x:10:alice\nshort:x:7777\n",
)


def identity(uid: int, gid: int, *groups: int, home: bytes = b"/") -> Account:
    return Account(uid=uid, gid=gid, groups=groups, home=home)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", identity(0, 0, 0, home=b"/root")),
        ("root", identity(0, 0, 0, home=b"/root")),
        ("alice", identity(1000, 100, 100, 29, 10, home=b"/home/alice")),
        ("1000", identity(1000, 100, 100, 29, 10, home=b"/home/alice")),
        ("alice:audio", identity(1000, 29, 29, home=b"/home/alice")),
        ("alice:5", identity(1000, 5, 5, home=b"/home/alice")),
        ("homeless", identity(1001, 1001, 1001)),
        ("9999", identity(9999, 0, 0)),
        ("9999:9998", identity(9999, 9998, 9998)),
        ("42", identity(42, 0, 0)),
        ("1000:", identity(1000, 100, 100, 29, 10, home=b"/home/alice")),
        ("root:", identity(0, 0, 0, home=b"/root")),
        (":", identity(0, 0, 0, home=b"/root")),
        (":audio", identity(0, 29, 29, home=b"/root")),
        ("spark", identity(2222, 0, 0)),
        ("hive", identity(3333, 100, 100)),
        ("spark:short", identity(2222, 7777, 7777)),
        (str(MAX_ID), identity(MAX_ID, 0, 0)),
    ],
)
def test_a_user_is_looked_up_as_docker_does(user: str, expected: Account) -> None:
    assert resolve(user, ACCOUNTS) == expected


def test_added_groups_follow_the_images_and_none_comes_twice() -> None:
    assert resolve("alice", ACCOUNTS, add_groups=("video", "29", "777")).groups == (100, 29, 10, 44, 777)


@pytest.mark.parametrize(
    "user",
    ["4294967295", "4294967296", "-1", "+1", "18446744073709551616", "0:4294967295", "root:-5", "1" * 5000],
)
def test_cve_2024_40635_a_number_that_is_no_id_is_refused(user: str) -> None:
    with pytest.raises(UsageError):
        resolve(user, ACCOUNTS)


@pytest.mark.parametrize(
    ("user", "file"),
    [
        ("nobody", "/etc/passwd"),
        ("root:nobody", "/etc/group"),
        ("0x10", "/etc/passwd"),
        (" 0", "/etc/passwd"),
        ("0 ", "/etc/passwd"),
        ("1_000", "/etc/passwd"),
        ("٣", "/etc/passwd"),
        ("toolarge", "/etc/passwd"),
        ("nonsense", "/etc/passwd"),
        ("nothing", "/etc/passwd"),
        ("empty", "/etc/passwd"),
        ("broken line", "/etc/passwd"),
        ("# a comment", "/etc/passwd"),
    ],
)
def test_cve_2026_30892_what_is_not_strictly_a_number_is_a_name(user: str, file: str) -> None:
    with pytest.raises(NotFoundError, match=f"no such name in the image's {file}"):
        resolve(user, ACCOUNTS)


def test_an_image_without_files_knows_numbers_only() -> None:
    assert resolve("5:6", Accounts(), add_groups=("7",)) == identity(5, 6, 6, 7)
    with pytest.raises(NotFoundError):
        resolve("root", Accounts())


@given(st.text(max_size=30), st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_the_files_hold_the_ids_are_ids(user: str, passwd: bytes, group: bytes) -> None:
    try:
        found = resolve(user, Accounts(passwd=passwd, group=group))
    except (NotFoundError, UsageError, UnicodeEncodeError):
        return
    assert all(0 <= number <= MAX_ID for number in (found.uid, found.gid, *found.groups))
    assert found.gid in found.groups
