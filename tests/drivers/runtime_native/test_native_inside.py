"""The steps the native runtime takes from a bundle: an order that works, and nothing lost on the way."""

from __future__ import annotations

from typing import Any

from plugengine_runtime_native import steps
from plugengine_runtime_native.inside import plan_inside

from plugengine.bundle import Bundle, DeviceNode, GuestMount, Process, Sysctl
from plugengine.kernel import mount
from plugengine.model import GuestPath, HostPath, IdRange, NamespacePlan, UserMap

MAP = UserMap(uids=(IdRange(guest=0, host=100000, size=65536),), gids=(IdRange(guest=0, host=100000, size=65536),))
NULL = DeviceNode(path=GuestPath("/dev/null"), type="c", major=1, minor=3, mode=0o666, host=HostPath("/dev/null"))
DEV = GuestMount(target=GuestPath("/dev"), fstype="tmpfs", source="tmpfs", flags=mount.MS_STRICTATIME)
PTS = GuestMount(target=GuestPath("/dev/pts"), fstype="devpts", options=(("newinstance", None),))


def plan(*, terminal: bool = False, user_map: UserMap | None = None, **parts: Any) -> list[steps.GuestStep]:
    bundle = Bundle(
        container_id="c" * 64,
        root=HostPath("/run/rootfs"),
        namespaces=NamespacePlan(clone_flags=0, user_map=user_map),
        process=Process(argv=("true",), env=(), cwd=parts.pop("cwd", GuestPath("/")), terminal=terminal),
        **parts,
    )
    return list(plan_inside(bundle).steps)


def of(planned: list[steps.GuestStep], kind: type[Any]) -> list[Any]:
    return [step for step in planned if isinstance(step, kind)]


def test_the_order_is_private_first_then_the_callers_mounts_and_the_pivot_last() -> None:
    planned = plan(
        terminal=True,
        cwd=GuestPath("/srv"),
        read_only=True,
        hostname="box",
        mounts=(DEV, PTS, GuestMount(target=GuestPath("/data"), fstype="bind", source="/src", follow=True)),
        devices=(NULL,),
        links=((GuestPath("/dev/fd"), "/proc/self/fd"),),
        sysctls=(Sysctl(path="net/ipv4/ip_forward", value="1"),),
        read_only_paths=(GuestPath("/proc/sys"),),
        masked_paths=(GuestPath("/proc/keys"),),
    )
    assert [step.describe() for step in planned] == [
        "make every mount private",
        "attach the root filesystem /run/rootfs",
        "mount tmpfs on /dev",
        "make /dev/null",
        "link /dev/fd",
        "mount devpts on /dev/pts",
        "open a terminal and bind it on /dev/console",
        "bind /src on /data",
        "set hostname to box",
        "set net.ipv4.ip_forward to 1",
        "make directory /srv",
        "make /proc/sys read-only",
        "mask /proc/keys",
        "make the mount on / read-only",
        "change the root and detach the host's",
    ]


def test_a_dev_of_the_callers_gets_no_console() -> None:
    own = GuestMount(target=GuestPath("/dev"), fstype="bind", source="/dev", follow=True)
    (console,) = of(plan(terminal=True, mounts=(own,)), steps.MakeConsole)
    assert not console.bind


def test_in_a_user_namespace_the_hosts_devices_are_bound() -> None:
    planned = plan(user_map=MAP, mounts=(DEV,), devices=(NULL,))
    assert of(planned, steps.BindNodes) == [steps.BindNodes(nodes=((b"/dev/null", b"/dev/null"),))]
    assert not of(planned, steps.MakeNodes)


def test_a_read_only_tmpfs_is_closed_after_the_mount_points_in_it_are_made() -> None:
    flags = mount.MS_RDONLY | mount.MS_NOSUID
    planned = plan(
        mounts=(
            GuestMount(target=GuestPath("/sys/fs/cgroup"), fstype="tmpfs", source="tmpfs", flags=flags),
            GuestMount(
                target=GuestPath("/sys/fs/cgroup/memory"),
                fstype="cgroup",
                source="cgroup",
                flags=flags,
                options=(("memory", None),),
            ),
        )
    )
    tmpfs, memory = of(planned, steps.MountNew)
    assert tmpfs.attributes == mount.MOUNT_ATTR_NOSUID
    assert memory.attributes == mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_RDONLY
    assert memory.parameters == ((b"source", b"cgroup"), (b"memory", None))
    assert [step.path for step in of(planned, steps.ReadOnlyMount)] == [b"/sys/fs/cgroup"]
    assert planned.index(memory) < planned.index(of(planned, steps.ReadOnlyMount)[0])


def test_a_bind_keeps_all_that_was_asked_for() -> None:
    asked = GuestMount(
        target=GuestPath("/proc/meminfo"),
        fstype="bind",
        source="/vols/v/_data",
        flags=mount.MS_RDONLY | mount.MS_REC,
        propagation="slave",
        user_map=MAP,
        subpath="a/b",
        volume="v",
        follow=True,
    )
    (step,) = of(plan(mounts=(asked,)), steps.MountTree)
    assert step == steps.MountTree(
        source=b"/vols/v/_data",
        target=b"/proc/meminfo",
        attributes=mount.MOUNT_ATTR_RDONLY,
        propagation=mount.MS_SLAVE,
        recursive=True,
        follow=True,
        user_map=MAP,
        volume=b"v",
        subpath=b"a/b",
    )
    assert step.inside_proc


def test_every_step_says_itself_in_one_line() -> None:
    planned = plan(
        terminal=True,
        mounts=(
            DEV,
            PTS,
            GuestMount(target=GuestPath("/run"), fstype="tmpfs", source="tmpfs", follow=True),
            GuestMount(target=GuestPath("/v"), fstype="bind", source="/vols/v", subpath="a", volume="v", follow=True),
        ),
        devices=(NULL,),
        hostname="box",
    )
    said = [step.describe() for step in planned]
    assert "bind /vols/v, path a in it, on /v" in said
    assert all(line and "\n" not in line for line in said)
