"""Turn the values of `pe run` and `pe exec` into a `ContainerSpec` and an `ExecSpec`; pure but for files named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct

from plugengine.cli.parse.devices import parse_device, parse_device_rule, parse_rate, parse_ulimit
from plugengine.cli.parse.environment import parse_pairs, read_text, resolve_env, resolve_labels
from plugengine.cli.parse.errors import CommandLineError, FlagError
from plugengine.cli.parse.isolation import parse_mode, parse_network, parse_security, parse_userns
from plugengine.cli.parse.mounts import parse_mount, parse_tmpfs, parse_volume
from plugengine.cli.parse.ports import (
    check_address,
    check_ipv4,
    parse_add_host,
    parse_expose,
    parse_hostname,
    parse_mac,
    parse_publish,
    with_exposed,
)
from plugengine.cli.parse.quantities import (
    PERIOD_US,
    parse_choice,
    parse_cpus,
    parse_int,
    parse_limit,
    parse_memory_swap,
    parse_size,
)
from plugengine.errors import UsageError
from plugengine.model import Limits
from plugengine.spec import ContainerSpec, ExecSpec

Values = Mapping[str, Any]
_T = TypeVar("_T")

PULL: Final = ("missing", "always", "never")
_MOST_INT: Final = 2**31 - 1
_MOST_PIDS: Final = 2**22  # include/linux/threads.h: PID_MAX_LIMIT
_QUOTA_US: Final = (1000, 2**63 - 1)
_PERIOD_US: Final = (1000, 1_000_000)  # the kernel's sched-bwc.rst
_SHARES: Final = (0, 262_144)  # kernel/sched/sched.h: MAX_SHARES
_WEIGHT: Final = (0, 1000)  # docker's; 0: none of our own
_LEAST_WEIGHT: Final = 10
_OOM_SCORE: Final = 1000  # proc_pid_oom_score_adj(5)


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the values of flags may refer to."""

    environ: Mapping[str, str]
    directory: str  # what relative paths are relative to
    processors: int


def container_spec(image: str, command: tuple[str, ...], values: Values, around: Surroundings) -> ContainerSpec:
    """Return the container a command line describes.

    Args:
        image: The image.
        command: The words after it.
        values: By parameter, as `container_options` names them.
        around: What values may refer to.

    Raises:
        FlagError: A value is not understood; says which.
    """
    return ContainerSpec(
        image=image,
        command=command,
        **_process(values, around),
        **_filesystem(values, around),
        **_network(values),
        **_isolation(values),
        limits=_limits(values, around.processors),
    )


def exec_spec(command: tuple[str, ...], values: Values, environ: Mapping[str, str]) -> ExecSpec:
    """Return the command an `exec` describes. Raises: FlagError."""
    return ExecSpec(
        command=command,
        env=_env(values, environ),
        working_dir=values["workdir"],
        user=values["user"],
        tty=values["tty"],
        interactive=values["interactive"],
        privileged=values["privileged"],
        detach=values["detach"],
    )


def _env(values: Values, environ: Mapping[str, str]) -> tuple[str, ...]:
    files = [(path, read_text("--env-file", path)) for path in values["env_file"]]
    return resolve_env(values["env"], files, environ)


def _maybe(text: str | None, parse: Callable[[str], _T]) -> _T | None:
    return None if text is None else parse(text)


def _all(texts: Iterable[str], parse: Callable[[str], _T]) -> tuple[_T, ...]:
    return tuple(parse(text) for text in texts)


def _process(values: Values, around: Surroundings) -> dict[str, Any]:
    entrypoint = values["entrypoint"]
    files = [(path, read_text("--label-file", path)) for path in values["label_file"]]
    return {
        "name": values["name"],
        "env": _env(values, around.environ),
        "working_dir": values["workdir"],
        "user": values["user"],
        "groups": values["group_add"],
        "entrypoint": None if entrypoint is None else (entrypoint,),
        "init": values["init"],
        "labels": resolve_labels(values["label"], files),
        "stop_signal": _maybe(values["stop_signal"], _check_signal),
        "stop_timeout_s": _int(values, "--stop-timeout", -1, _MOST_INT),
        "auto_remove": values["rm"],
        "pull": parse_choice("--pull", values["pull"] or "missing", PULL),
        "tty": values["tty"],
        "interactive": values["interactive"],
    }


def _check_signal(text: str) -> str:
    from plugengine.runtime.signals import signal_number

    try:
        signal_number(text)
    except UsageError as exc:
        raise FlagError("--stop-signal", text, "there is no such signal", example="SIGINT") from exc
    return text


def _filesystem(values: Values, around: Surroundings) -> dict[str, Any]:
    directory = around.directory
    return {
        "mounts": (
            *_all(values["volume"], lambda text: parse_volume("--volume", text, directory=directory)),
            *_all(values["mount"], lambda text: parse_mount("--mount", text, directory=directory)),
            *_all(values["tmpfs"], lambda text: parse_tmpfs("--tmpfs", text)),
        ),
        "read_only": values["read_only"],
        "storage": values["storage"],
        "storage_options": parse_pairs("--storage-opt", values["storage_opt"], example="volatile=on"),
        **_given(shm_size_bytes=_maybe(values["shm_size"], lambda text: parse_size("--shm-size", text))),
    }


def _given(**found: Any) -> dict[str, Any]:
    """Return what is not None: the rest keeps the default of the spec."""
    return {name: value for name, value in found.items() if value is not None}


def _network(values: Values) -> dict[str, Any]:
    network, mode = parse_network("--network", values["network"] or "")
    ports = tuple(port for text in values["publish"] for port in parse_publish("--publish", text))
    exposed = [pair for text in values["expose"] for pair in parse_expose("--expose", text)]
    if mode and (ports or values["publish_all"]):
        raise FlagError("--network", mode, "ports are published by the container that owns the network")
    if mode and values["hostname"]:
        raise FlagError("--hostname", values["hostname"], f"not with --network {mode}: it has a name already")
    for flag in ("ip", "mac_address", "dns", "add_host"):
        if mode and values[flag]:
            shown = values[flag] if isinstance(values[flag], str) else " ".join(values[flag])
            raise FlagError(f"--{flag.replace('_', '-')}", shown, f"not with --network {mode}: its settings are shared")
    if values["uts"] and values["uts"] != "private":
        for flag in ("hostname", "domainname"):
            if values[flag]:
                raise FlagError(f"--{flag}", values[flag], f"not with --uts {values['uts']}: it has a name already")
    return {
        "network": network,
        "network_options": parse_pairs("--net-opt", values["net_opt"], example="mtu=1400"),
        "modes": _modes(values, mode),
        "ports": tuple(with_exposed(ports, exposed)) if values["publish_all"] else tuple(dict.fromkeys(ports)),
        "publish_all": values["publish_all"],
        "hostname": _maybe(values["hostname"], lambda text: parse_hostname("--hostname", text)),
        "domainname": _maybe(values["domainname"], lambda text: parse_hostname("--domainname", text)),
        "ip": _maybe(values["ip"], lambda text: check_ipv4("--ip", text, text)),
        "mac_address": _maybe(values["mac_address"], lambda text: parse_mac("--mac-address", text)),
        "dns": _all(values["dns"], lambda text: check_address("--dns", text, text)),
        "dns_search": values["dns_search"],
        "dns_options": values["dns_option"],
        "extra_hosts": _all(values["add_host"], lambda text: parse_add_host("--add-host", text)),
    }


def _modes(values: Values, net: str | None) -> dict[str, str]:
    found = {"net": net} if net else {}
    for flag, name in (("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup")):
        text = values[flag.removeprefix("--")]
        if text:
            found[name] = parse_mode(flag, name, text)
    return found


def _isolation(values: Values) -> dict[str, Any]:
    security = parse_security("--security-opt", values["security_opt"])
    return {
        "cap_add": values["cap_add"],
        "cap_drop": values["cap_drop"],
        "privileged": values["privileged"],
        "no_new_privileges": security.no_new_privileges,
        "seccomp": security.seccomp,
        "unmasked": security.unmasked,
        "devices": _all(values["device"], lambda text: parse_device("--device", text)),
        "device_rules": _all(
            values["device_cgroup_rule"], lambda text: parse_device_rule("--device-cgroup-rule", text)
        ),
        "rlimits": _all(values["ulimit"], lambda text: parse_ulimit("--ulimit", text)),
        "sysctls": parse_pairs("--sysctl", values["sysctl"], example="net.ipv4.ip_forward=1"),
        "oom_score_adj": _int(values, "--oom-score-adj", -_OOM_SCORE, _OOM_SCORE),
        "userns": parse_userns("--userns", values["userns"]) if values["userns"] else "",
        "cgroup": values["cgroup"],
        "cgroup_options": parse_pairs("--cgroup-opt", values["cgroup_opt"], example="name=value"),
        "namespace": values["namespace"],
        "runtime": values["runtime"],
        "runtime_options": parse_pairs("--runtime-opt", values["runtime_opt"], example="program=/usr/sbin/runc"),
        "namespace_options": parse_pairs("--namespace-opt", values["namespace_opt"], example="time_offset=3600"),
        **_given(cgroup_parent=_maybe(values["cgroup_parent"], _check_parent)),
    }


def _check_parent(text: str) -> str:
    path = text.strip("/")
    if not path or ".." in path.split("/"):
        raise FlagError("--cgroup-parent", text, "not a path below the root of control groups", example="tenants/web")
    return path


def _int(values: Values, flag: str, low: int, high: int) -> int | None:
    text = values[flag.removeprefix("--").replace("-", "_")]
    return _maybe(text, lambda given: parse_int(flag, given, low=low, high=high))


def _limits(values: Values, processors: int) -> Limits:
    quota, period = _cpu_time(values, processors)
    pids = _int(values, "--pids-limit", -1, _MOST_PIDS)
    weight = _int(values, "--blkio-weight", *_WEIGHT) or None
    if weight is not None and weight < _LEAST_WEIGHT:
        raise FlagError("--blkio-weight", str(weight), f"not between {_LEAST_WEIGHT} and {_WEIGHT[1]}", example="500")
    return Limits(
        memory_bytes=_maybe(values["memory"], lambda text: parse_limit("--memory", text)),
        memory_swap_bytes=_maybe(values["memory_swap"], lambda text: parse_memory_swap("--memory-swap", text)),
        memory_reservation_bytes=_maybe(
            values["memory_reservation"], lambda text: parse_limit("--memory-reservation", text)
        ),
        cpu_quota_us=quota,
        cpu_period_us=period,
        cpu_shares=_int(values, "--cpu-shares", *_SHARES) or None,
        cpuset_cpus=values["cpuset_cpus"] or None,
        cpuset_mems=values["cpuset_mems"] or None,
        pids=-1 if pids == 0 else pids,
        blkio_weight=weight,
        read_bps=_all(values["device_read_bps"], lambda text: parse_rate("--device-read-bps", text, operations=False)),
        write_bps=_all(
            values["device_write_bps"], lambda text: parse_rate("--device-write-bps", text, operations=False)
        ),
        read_iops=_all(
            values["device_read_iops"], lambda text: parse_rate("--device-read-iops", text, operations=True)
        ),
        write_iops=_all(
            values["device_write_iops"], lambda text: parse_rate("--device-write-iops", text, operations=True)
        ),
    )


def _cpu_time(values: Values, processors: int) -> tuple[int | None, int]:
    cpus, quota, period = values["cpus"], values["cpu_quota"], values["cpu_period"]
    if cpus is not None and (quota is not None or period is not None):
        raise CommandLineError("--cpus: not together with --cpu-quota or --cpu-period", hint="--cpus sets both")
    if cpus is not None:
        return parse_cpus("--cpus", cpus, available=processors), PERIOD_US
    given = _int(values, "--cpu-period", *_PERIOD_US) or PERIOD_US
    return (None if quota in (None, "-1", "0") else _int(values, "--cpu-quota", *_QUOTA_US)), given
