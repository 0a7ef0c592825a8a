"""The plan of a container's inside: pure, so tables of examples test it without root."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plugengine.errors import UsageError
from plugengine.kernel import mount
from plugengine.model import GuestPath, HostPath, IdRange, Mount, UserMap
from plugengine.runtime.guest import GuestPlan, GuestRequest, ResolvedMount, plan_guest
from plugengine.runtime.guest import steps as guest_steps
from plugengine.spec import ContainerSpec, Device, ImageConfig

MAP = UserMap(uids=(IdRange(guest=0, host=100000, size=65536),), gids=(IdRange(guest=0, host=100000, size=65536),))
CLOSED = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


def plan(
    *,
    mounts: tuple[ResolvedMount, ...] = (),
    etc_files: dict[GuestPath, HostPath] | None = None,
    cgroup_mounts: tuple[Mount, ...] = (),
    user_map: UserMap | None = None,
    config: ImageConfig | None = None,
    shm: HostPath | None = None,
    own: dict[str, bool] | None = None,
    **spec: Any,
) -> GuestPlan:
    described = ContainerSpec(image="x", **spec)
    request = GuestRequest(
        rootfs=HostPath("/run/rootfs"),
        spec=described,
        config=config or ImageConfig(),
        hostname="box",
        mounts=mounts,
        etc_files=etc_files or {},
        cgroup_mounts=cgroup_mounts,
        devices=described.devices,
        user_map=user_map,
        masked=(GuestPath("/proc/keys"),),
        shm=shm,
    )
    return plan_guest(msgspec.structs.replace(request, **(own or {})))


def targets(planned: GuestPlan) -> list[str]:
    kinds = (guest_steps.MountNew, guest_steps.MountTmpfs, guest_steps.MountTree)
    return [step.target.decode() for step in planned.steps if isinstance(step, kinds)]


def of(planned: GuestPlan, kind: type[Any]) -> list[Any]:
    return [step for step in planned.steps if isinstance(step, kind)]


def bind(target: str, source: str = "/src", **options: Any) -> ResolvedMount:
    return ResolvedMount(target=GuestPath(target), source=HostPath(source), **options)


def test_the_order_is_fixed_private_first_and_the_pivot_last() -> None:
    assert [step.describe() for step in plan().steps] == [
        "make every mount private",
        "attach the root filesystem /run/rootfs",
        "mount proc on /proc",
        "mount tmpfs on /dev",
        "make /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
        "link /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/core /dev/ptmx",
        "mount devpts on /dev/pts",
        "mount tmpfs on /dev/shm",
        "mount mqueue on /dev/mqueue",
        "mount sysfs on /sys read-only",
        "set hostname to box",
        "set net.ipv4.ip_unprivileged_port_start to 0",
        "set net.ipv4.ping_group_range to 0 2147483647",
        "make /proc/bus read-only",
        "make /proc/fs read-only",
        "make /proc/irq read-only",
        "make /proc/sys read-only",
        "make /proc/sysrq-trigger read-only",
        "mask /proc/keys",
        "change the root and detach the host's",
    ]


def test_every_step_can_say_itself_with_all_options_on() -> None:
    planned = plan(
        mounts=(bind("/data", read_only=True), ResolvedMount(target=GuestPath("/run"))),
        config=ImageConfig(working_dir="/app"),
        tty=True,
        read_only=True,
        privileged=True,
        devices=(Device(host=HostPath("/dev/kvm"), guest=GuestPath("/dev/kvm")),),
    )
    said = [step.describe() for step in planned.steps]
    assert "copy /dev/kvm every device of the host" in said
    assert "open a terminal and bind it on /dev/console" in said
    assert "bind /src on /data read-only" in said
    assert "mount tmpfs on /run" in said
    assert "make directory /app" in said
    assert said[-2:] == ["make the mount on / read-only", "change the root and detach the host's"]


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
    (step,) = of(plan(mounts=(bind("/proc/meminfo"),)), guest_steps.MountTree)
    assert step.inside_proc


def test_mounts_are_sorted_by_depth_with_the_files_of_etc_among_them() -> None:
    planned = plan(
        mounts=(bind("/etc/deep/down"), bind("/etc"), bind("/b"), bind("/a")),
        etc_files={GuestPath("/etc/hosts"): HostPath("/run/hosts")},
    )
    assert targets(planned)[6:] == ["/etc", "/b", "/a", "/etc/hosts", "/etc/deep/down"]


def test_a_file_of_etc_gives_way_to_the_callers() -> None:
    planned = plan(mounts=(bind("/etc/hosts"),), etc_files={GuestPath("/etc/hosts"): HostPath("/run/hosts")})
    assert [step.source for step in of(planned, guest_steps.MountTree)] == [b"/src"]


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
    assert [step.source for step in of(planned, guest_steps.MountTree)] == [b"/src"]


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("private", mount.MS_PRIVATE),
        ("rprivate", mount.MS_PRIVATE),
        ("rslave", mount.MS_SLAVE),
        ("shared", mount.MS_SHARED),
    ],
)
def test_propagation_words_become_flags(word: str, flag: int) -> None:
    (step,) = of(plan(mounts=(bind("/a", propagation=word),)), guest_steps.MountTree)
    assert step.propagation == flag


def test_an_unknown_propagation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown propagation 'upwards'") as caught:
        plan(mounts=(bind("/a", propagation="upwards"),))
    assert "rslave" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("options", "bits", "parameters"),
    [
        ((), CLOSED, ()),
        ((("exec", None), ("dev", None), ("suid", None)), 0, ()),
        ((("ro", None),), CLOSED | mount.MOUNT_ATTR_RDONLY, ()),
        ((("noatime", None),), CLOSED | mount.MOUNT_ATTR_NOATIME, ()),
        ((("size", "10m"), ("mode", "0700")), CLOSED, ((b"size", b"10m"), (b"mode", b"0700"))),
    ],
)
def test_tmpfs_options_are_attributes_or_parameters(options: Any, bits: int, parameters: Any) -> None:
    (step,) = of(plan(mounts=(ResolvedMount(target=GuestPath("/t"), options=options),)), guest_steps.MountTmpfs)
    assert (step.attributes, step.parameters[1:]) == (bits, parameters)


@pytest.mark.parametrize("option", [("siez", "1m"), ("exec", "yes"), ("lowerdir", "/etc")])
def test_an_unknown_tmpfs_option_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="--tmpfs /t: unknown option"):
        plan(mounts=(ResolvedMount(target=GuestPath("/t"), options=(option,)),))


def test_in_a_user_namespace_devices_are_bound_and_the_terminal_group_must_be_mapped() -> None:
    planned = plan(user_map=MAP)
    (devices,) = of(planned, guest_steps.CopyDevices)
    assert devices.bind
    assert not of(planned, guest_steps.MakeNodes)
    (pts,) = [step for step in of(planned, guest_steps.MountNew) if step.fstype == b"devpts"]
    assert (b"gid", b"5") in pts.parameters
    few = UserMap(uids=MAP.uids, gids=(IdRange(guest=0, host=100000, size=5),))
    (pts,) = [step for step in of(plan(user_map=few), guest_steps.MountNew) if step.fstype == b"devpts"]
    assert not any(key == b"gid" for key, _value in pts.parameters)


def test_filesystems_of_namespaces_a_user_namespace_does_not_own_are_bound() -> None:
    planned = plan(user_map=MAP, own={"own_net": False, "own_ipc": False}, shm=HostPath("/dev/shm"))
    assert [step.target for step in of(planned, guest_steps.MountTree)] == [b"/dev/shm", b"/dev/mqueue", b"/sys"]


def test_a_pid_namespace_the_user_namespace_does_not_own_is_refused() -> None:
    with pytest.raises(UsageError, match="pid namespace"):
        plan(user_map=MAP, own={"own_pid": False})


def test_a_shared_uts_namespace_keeps_its_names() -> None:
    assert not of(plan(own={"own_uts": False}), guest_steps.SetNames)


def test_a_read_only_tmpfs_of_cgroups_is_closed_after_its_mount_points_are_made() -> None:
    flags = mount.MS_RDONLY | mount.MS_NOSUID
    planned = plan(
        cgroup_mounts=(
            Mount(fstype="tmpfs", source="tmpfs", target=HostPath("/"), flags=flags),
            Mount(
                fstype="cgroup", source="cgroup", target=HostPath("/memory"), flags=flags, options=(("memory", None),)
            ),
        )
    )
    tmpfs, memory = [step for step in of(planned, guest_steps.MountNew) if step.target.startswith(b"/sys/fs/cgroup")]
    assert tmpfs.attributes == mount.MOUNT_ATTR_NOSUID
    assert memory.attributes == mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_RDONLY
    assert memory.parameters == ((b"source", b"cgroup"), (b"memory", None))
    assert [step.path for step in of(planned, guest_steps.ReadOnlyMount)] == [b"/sys/fs/cgroup"]


def test_a_privileged_container_has_no_masks_and_writable_kernel_filesystems() -> None:
    cgroup = Mount(fstype="cgroup2", source="cgroup", target=HostPath("/"), flags=mount.MS_RDONLY)
    planned = plan(privileged=True, cgroup_mounts=(cgroup,))
    assert not of(planned, guest_steps.MaskPath)
    assert not of(planned, guest_steps.ReadOnlyPath)
    new = of(planned, guest_steps.MountNew)
    assert not any(step.attributes & mount.MOUNT_ATTR_RDONLY for step in new)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", b"net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/rp_filter", b"net/ipv4/conf/eth0.100/rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", b"net/ipv4/conf/eth0.100/rp_filter"),
        ("kernel.shmmax", b"kernel/shmmax"),
        ("kernel.msgmax", b"kernel/msgmax"),
        ("kernel.sem", b"kernel/sem"),
        ("fs.mqueue.msg_max", b"fs/mqueue/msg_max"),
    ],
)
def test_parameters_of_namespaces_are_set(name: str, path: bytes) -> None:
    planned = plan(sysctls={name: "1"})
    assert of(planned, guest_steps.WriteSysctl)[-1] == guest_steps.WriteSysctl(path=path, value=b"1")


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


@pytest.mark.parametrize(("name", "own"), [("net.core.somaxconn", "own_net"), ("kernel.shmmax", "own_ipc")])
def test_parameters_of_a_namespace_that_is_shared_are_refused(name: str, own: str) -> None:
    with pytest.raises(UsageError, match="namespace is not the container's own"):
        plan(sysctls={name: "1"}, own={own: False})


def test_a_callers_parameter_replaces_the_default() -> None:
    planned = plan(sysctls={"net.ipv4.ip_unprivileged_port_start": "1024"})
    values = [step.value for step in of(planned, guest_steps.WriteSysctl) if step.path.endswith(b"port_start")]
    assert values == [b"1024"]
