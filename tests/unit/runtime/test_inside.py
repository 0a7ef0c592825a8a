"""The plan of a container's inside: values, so tables of examples test it without root."""

from __future__ import annotations

from typing import Any

import pytest

from plugengine.bundle import Bundle, GuestMount, Sysctl
from plugengine.errors import NotFoundError, UsageError
from plugengine.kernel import mount
from plugengine.kernel.process import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from plugengine.model import GuestPath, HostPath, IdRange, Mount, NamespacePlan, UserMap
from plugengine.runtime import describe
from plugengine.runtime.inside import plan_inside
from plugengine.runtime.process import plan_process
from plugengine.runtime.request import InsideRequest, ResolvedMount
from plugengine.spec import ContainerSpec, Device, ImageConfig

MAP = UserMap(uids=(IdRange(guest=0, host=100000, size=65536),), gids=(IdRange(guest=0, host=100000, size=65536),))
CLOSED = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
ALL = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS


def plan(
    *,
    mounts: tuple[ResolvedMount, ...] = (),
    etc_files: dict[GuestPath, HostPath] | None = None,
    cgroup_mounts: tuple[Mount, ...] = (),
    user_map: UserMap | None = None,
    config: ImageConfig | None = None,
    shm: HostPath | None = None,
    shared: int = 0,
    **spec: Any,
) -> Bundle:
    described = ContainerSpec(image="x", command=("true",), **spec)
    flags = (ALL if user_map is None else ALL | CLONE_NEWUSER) & ~shared
    request = InsideRequest(
        container_id="c" * 64,
        rootfs=HostPath("/run/rootfs"),
        spec=described,
        config=config or ImageConfig(),
        hostname="box",
        namespaces=NamespacePlan(clone_flags=flags, unshare_flags=CLONE_NEWCGROUP, user_map=user_map),
        mounts=mounts,
        etc_files=etc_files or {},
        cgroup_mounts=cgroup_mounts,
        devices=described.devices,
        masked=(GuestPath("/proc/keys"),),
        shm=shm,
    )
    return plan_inside(request, plan_process(described, request.config, hostname="box"))


def targets(planned: Bundle) -> list[str]:
    return [each.target for each in planned.mounts]


def callers(planned: Bundle) -> list[GuestMount]:
    return [each for each in planned.mounts if each.follow]


def bind(target: str, source: str = "/src", **options: Any) -> ResolvedMount:
    return ResolvedMount(target=GuestPath(target), source=HostPath(source), **options)


def test_everything_is_said_in_its_order() -> None:
    assert list(describe.inside(plan())) == [
        "mount proc on /proc",
        "mount tmpfs on /dev",
        "mount devpts on /dev/pts",
        "mount tmpfs on /dev/shm",
        "mount mqueue on /dev/mqueue",
        "mount sysfs on /sys read-only",
        "make /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
        "link /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/core /dev/ptmx",
        "set hostname to box",
        "set net.ipv4.ip_unprivileged_port_start to 0",
        "set net.ipv4.ping_group_range to 0 2147483647",
        "make /proc/bus read-only",
        "make /proc/fs read-only",
        "make /proc/irq read-only",
        "make /proc/sys read-only",
        "make /proc/sysrq-trigger read-only",
        "mask /proc/keys",
    ]


def test_what_is_asked_for_is_said_too() -> None:
    volume = ResolvedMount(target=GuestPath("/v"), source=HostPath("/vols/v/_data"), volume="v", subpath="a/b")
    planned = plan(
        mounts=(bind("/data", read_only=True), ResolvedMount(target=GuestPath("/run")), volume),
        read_only=True,
        domainname="example.org",
        devices=(Device(host=HostPath("/dev/zero"), guest=GuestPath("/dev/kvm")),),
    )
    said = list(describe.inside(planned))
    assert "make /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/kvm" in said
    assert "set hostname to box.example.org in example.org" in said
    assert "bind /src on /data read-only" in said
    assert "bind volume v, path a/b in it, on /v" in said
    assert "mount tmpfs on /run" in said
    assert said[-1] == "make the root filesystem read-only"


def test_a_privileged_container_gets_every_device_of_the_host() -> None:
    found = {node.path: node for node in plan(privileged=True).devices}
    assert (found[GuestPath("/dev/full")].major, found[GuestPath("/dev/full")].minor) == (1, 7)
    assert len(found) > 6
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in found)


def test_a_directory_of_devices_stands_for_all_in_it() -> None:
    planned = plan(devices=(Device(host=HostPath("/dev"), guest=GuestPath("/all")),))
    assert GuestPath("/all/null") in [node.path for node in planned.devices]


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("/dev/nonesuch", "device /dev/nonesuch: no such device on this host"),
        ("/etc/passwd", "device /etc/passwd: not a character or block device"),
    ],
)
def test_a_device_that_is_none_is_named(device: str, error: str) -> None:
    with pytest.raises(NotFoundError, match=error):
        plan(devices=(Device(host=HostPath(device), guest=GuestPath("/dev/x")),))


@pytest.mark.parametrize("given", ["relative", "", "a/b", "/a\0b"])
def test_a_mount_point_must_be_absolute(given: str) -> None:
    with pytest.raises(UsageError, match="not an absolute path"):
        plan(mounts=(bind(given),))


@pytest.mark.parametrize("given", ["/", "//", "/.", "/a/.."])
def test_the_root_is_no_mount_point(given: str) -> None:
    with pytest.raises(UsageError, match="the root is the image's"):
        plan(mounts=(bind(given),))


def test_a_mount_point_given_twice_is_refused_also_in_another_spelling() -> None:
    with pytest.raises(UsageError, match="/data: given twice"):
        plan(mounts=(bind("/data"), bind("//data/x/..")))


def test_the_files_lxcfs_covers_may_be_covered() -> None:
    (planned,) = callers(plan(mounts=(bind("/proc/meminfo"),)))
    assert planned.target == "/proc/meminfo"


def test_mounts_are_sorted_by_depth_with_the_files_of_etc_among_them() -> None:
    planned = plan(
        mounts=(bind("/etc/deep/down"), bind("/etc"), bind("/b"), bind("/a")),
        etc_files={GuestPath("/etc/hosts"): HostPath("/run/hosts")},
    )
    assert targets(planned)[6:] == ["/etc", "/b", "/a", "/etc/hosts", "/etc/deep/down"]


def test_a_file_of_etc_gives_way_to_the_callers() -> None:
    planned = plan(mounts=(bind("/etc/hosts"),), etc_files={GuestPath("/etc/hosts"): HostPath("/run/hosts")})
    assert [each.source for each in callers(planned)] == ["/src"]


@pytest.mark.parametrize(
    ("mounted", "gone"),
    [
        ("/dev/shm", set()),
        ("/dev/mqueue", set()),
        ("/dev", {"/dev/shm", "/dev/mqueue", "/dev/pts"}),
        ("/sys", {"/sys/fs/cgroup"}),
        ("/sys/fs/cgroup", set()),
    ],
)
def test_a_mount_of_the_caller_replaces_the_engines(mounted: str, gone: set[str]) -> None:
    cgroup = Mount(fstype="cgroup2", source="cgroup", target=HostPath("/"), flags=mount.MS_RDONLY)
    planned = plan(mounts=(bind(mounted),), cgroup_mounts=(cgroup,))
    found, without = targets(planned), targets(plan(cgroup_mounts=(cgroup,)))
    assert set(without) - set(found) == gone, "what lies below goes, too"
    assert found.count(mounted) == without.count(mounted) == 1
    assert [each.source for each in callers(planned)] == ["/src"]


@pytest.mark.parametrize(
    ("word", "kind"), [("private", "private"), ("rprivate", "private"), ("rslave", "slave"), ("shared", "shared")]
)
def test_propagation_is_that_of_the_whole_tree(word: str, kind: str) -> None:
    (planned,) = callers(plan(mounts=(bind("/a", propagation=word),)))
    assert (planned.propagation, planned.flags) == (kind, mount.MS_REC)


def test_an_unknown_propagation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown propagation 'upwards'") as caught:
        plan(mounts=(bind("/a", propagation="upwards"),))
    assert "rslave" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "bits", "parameters"),
    [
        ((), CLOSED, ()),
        ((("exec", None), ("dev", None), ("suid", None)), 0, ()),
        ((("ro", None),), CLOSED | mount.MS_RDONLY, ()),
        ((("noatime", None),), CLOSED | mount.MS_NOATIME, ()),
        ((("noatime", None), ("strictatime", None)), CLOSED | mount.MS_STRICTATIME, ()),
        ((("size", "10m"), ("mode", "0700")), CLOSED, (("size", "10m"), ("mode", "0700"))),
    ],
)
def test_tmpfs_options_are_flags_or_parameters(options: Any, bits: int, parameters: Any) -> None:
    (planned,) = callers(plan(mounts=(ResolvedMount(target=GuestPath("/t"), options=options),)))
    assert (planned.flags, planned.options) == (bits, parameters)


@pytest.mark.parametrize("option", [("siez", "1m"), ("exec", "yes"), ("lowerdir", "/etc")])
def test_an_unknown_tmpfs_option_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="--tmpfs /t: unknown option"):
        plan(mounts=(ResolvedMount(target=GuestPath("/t"), options=(option,)),))


def test_the_terminals_group_must_be_mapped() -> None:
    def options(user_map: UserMap | None) -> tuple[tuple[str, str | None], ...]:
        (pts,) = [each for each in plan(user_map=user_map).mounts if each.fstype == "devpts"]
        return pts.options

    assert ("gid", "5") in options(None)
    assert ("gid", "5") in options(MAP)
    few = UserMap(uids=MAP.uids, gids=(IdRange(guest=0, host=100000, size=5),))
    assert not any(key == "gid" for key, _value in options(few))


def test_volumes_and_the_engines_files_are_mapped_the_hosts_directories_are_not() -> None:
    volume = ResolvedMount(target=GuestPath("/v"), source=HostPath("/vols/v/_data"), volume="v")
    planned = plan(
        user_map=MAP, mounts=(volume, bind("/b")), etc_files={GuestPath("/etc/hosts"): HostPath("/run/hosts")}
    )
    assert {each.target: each.user_map for each in callers(planned)} == {"/v": MAP, "/b": None, "/etc/hosts": MAP}


def test_filesystems_of_namespaces_a_user_namespace_does_not_own_are_bound() -> None:
    planned = plan(user_map=MAP, shared=CLONE_NEWNET | CLONE_NEWIPC, shm=HostPath("/dev/shm"))
    assert [each.target for each in planned.mounts if each.fstype == "bind"] == ["/dev/shm", "/dev/mqueue", "/sys"]


def test_a_pid_namespace_the_user_namespace_does_not_own_is_refused() -> None:
    with pytest.raises(UsageError, match="pid namespace"):
        plan(user_map=MAP, shared=CLONE_NEWPID)


def test_a_shared_uts_namespace_keeps_its_names() -> None:
    assert plan(shared=CLONE_NEWUTS).hostname is None


def test_a_privileged_container_has_no_masks_and_writable_kernel_filesystems() -> None:
    cgroup = Mount(fstype="cgroup2", source="cgroup", target=HostPath("/"), flags=mount.MS_RDONLY)
    planned = plan(privileged=True, cgroup_mounts=(cgroup,))
    assert (planned.masked_paths, planned.read_only_paths) == ((), ())
    assert not any(each.flags & mount.MS_RDONLY for each in planned.mounts)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("kernel.shmmax", "kernel/shmmax"),
        ("kernel.msgmax", "kernel/msgmax"),
        ("kernel.sem", "kernel/sem"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ],
)
def test_parameters_of_namespaces_are_set(name: str, path: str) -> None:
    assert plan(sysctls={name: "1"}).sysctls[-1] == Sysctl(path=path, value="1")


@pytest.mark.parametrize(
    "name",
    [
        "kernel.core_pattern",
        "kernel.hostname",
        "vm.overcommit_memory",
        "fs.file-max",
        "net",
        "net..ipv4",
        "net/../kernel/core_pattern",
        "net.ipv4./..",
        "/net/ipv4",
        "kernel.semantics",
        "",
    ],
)
def test_parameters_of_the_machine_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--sysctl"):
        plan(sysctls={name: "1"})


@pytest.mark.parametrize(("name", "shared"), [("net.core.somaxconn", CLONE_NEWNET), ("kernel.shmmax", CLONE_NEWIPC)])
def test_parameters_of_a_namespace_that_is_shared_are_refused(name: str, shared: int) -> None:
    with pytest.raises(UsageError, match="namespace is not the container's own"):
        plan(sysctls={name: "1"}, shared=shared)


def test_a_callers_parameter_replaces_the_default() -> None:
    planned = plan(sysctls={"net.ipv4.ip_unprivileged_port_start": "1024"})
    values = [each.value for each in planned.sysctls if each.path.endswith("port_start")]
    assert values == ["1024"]
