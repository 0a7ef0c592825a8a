"""The options of `pe run` and `pe create`, with docker's names and meanings."""

from __future__ import annotations

import click

from plugengine.cli.command import option, options, switch


def process_options() -> tuple[click.Option, ...]:
    """Return the options about the command and who runs it."""
    return (
        switch("-i", "--interactive", help="Keep standard input open."),
        switch("-t", "--tty", help="Give the command a terminal."),
        option("--name", help="Name of the container; one is invented without."),
        options("-e", "--env", metavar="NAME[=VALUE]", help="Set a variable; NAME alone takes the caller's value."),
        options("--env-file", metavar="FILE", help="Set the variables of a file, one NAME=VALUE a line."),
        option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
        option("-u", "--user", metavar="USER[:GROUP]", help="Names (of the image) or numbers."),
        options("--group-add", metavar="GROUP", help="Join one more group."),
        option("--entrypoint", metavar="COMMAND", help="Replace the image's entry point and command; empty for none."),
        switch("--init", help="Run an init that forwards signals and reaps processes."),
        options("-l", "--label", metavar="KEY[=VALUE]", help="Label the container."),
        options("--label-file", metavar="FILE", help="Labels of a file, one a line."),
        option("--stop-signal", metavar="SIGNAL", help="Signal that asks the command to end."),
        option("--stop-timeout", metavar="SECONDS", help="How long it then has, -1 for ever."),
        switch("--rm", help="Remove the container and its anonymous volumes when it ends."),
        option("--cidfile", metavar="FILE", help="Write the container's id to a new file."),
        option("--pull", metavar="missing|always|never", help="When to get the image  [missing]"),
        switch("-q", "--quiet", help="Say nothing about getting the image."),
        options("-a", "--attach", metavar="STREAM", help="Connect stdin, stdout or stderr only."),
        switch("--dry-run", help="Print the steps instead of taking them."),
    )


def filesystem_options() -> tuple[click.Option, ...]:
    """Return the options about what the command sees in the filesystem."""
    return (
        options("-v", "--volume", metavar="[SOURCE:]TARGET[:OPTIONS]", help="Mount a directory or a volume."),
        options("--mount", metavar="type=…,source=…,target=…", help="Mount a bind, volume or tmpfs."),
        options("--tmpfs", metavar="TARGET[:OPTIONS]", help="Mount an empty tmpfs."),
        switch("--read-only", help="Mount the root filesystem read-only."),
        option("--shm-size", metavar="SIZE", help="Size of /dev/shm  [64m]"),
        option("--storage", metavar="DRIVER", help="Storage driver; pe drivers lists them."),
        options("--storage-opt", metavar="NAME=VALUE", help="Option of the storage driver."),
    )


def network_options() -> tuple[click.Option, ...]:
    """Return the options about network and names."""
    return (
        option(
            "--network", "--net", metavar="NAME|DRIVER|container:NAME", help="A network of pe network ls, or a driver."
        ),
        options("--net-opt", metavar="NAME=VALUE", help="Option of the network driver."),
        options("-p", "--publish", metavar="[[IP:]HOST:]PORT[/PROTO]", help="Publish a port or range on the host."),
        switch("-P", "--publish-all", help="Publish all exposed ports on free host ports."),
        options("--expose", metavar="PORT[/PROTO]", help="Expose a port or range."),
        option("-h", "--hostname", help="Host name inside."),
        option("--domainname", help="NIS domain name inside."),
        option("--ip", metavar="ADDRESS", help="IPv4 address of the container."),
        option("--mac-address", metavar="ADDRESS", help="Ethernet address of the container."),
        options("--dns", metavar="ADDRESS", help="Name server instead of the host's."),
        options("--dns-search", metavar="DOMAIN", help="Search domain."),
        options("--dns-option", "--dns-opt", metavar="OPTION", help="Option of resolv.conf(5)."),
        options("--add-host", metavar="NAME:IP", help="Line for /etc/hosts; the IP may be host-gateway."),
    )


def limit_options() -> tuple[click.Option, ...]:
    """Return the options about resources."""
    return (
        option("-m", "--memory", metavar="SIZE", help="Memory limit, such as 64m."),
        option("--memory-swap", metavar="SIZE", help="Memory and swap together, -1 for no limit."),
        option("--memory-reservation", metavar="SIZE", help="Memory kept when the host runs short."),
        option("--cpus", metavar="NUMBER", help="Processors, such as 0.5."),
        option("-c", "--cpu-shares", metavar="NUMBER", help="Weight against other containers  [1024]"),
        option("--cpu-period", metavar="MICROSECONDS", help="Period of the processor quota."),
        option("--cpu-quota", metavar="MICROSECONDS", help="Processor time in each period."),
        option("--cpuset-cpus", metavar="LIST", help="Processors to run on, such as 0-2,7."),
        option("--cpuset-mems", metavar="LIST", help="Memory nodes to use."),
        option("--pids-limit", metavar="NUMBER", help="Most processes, -1 for no limit."),
        option("--blkio-weight", metavar="NUMBER", help="Weight of block input and output, 10 to 1000."),
        options("--device-read-bps", metavar="DEVICE:RATE", help="Bytes read a second."),
        options("--device-write-bps", metavar="DEVICE:RATE", help="Bytes written a second."),
        options("--device-read-iops", metavar="DEVICE:RATE", help="Reads a second."),
        options("--device-write-iops", metavar="DEVICE:RATE", help="Writes a second."),
        option("--oom-score-adj", metavar="NUMBER", help="Out-of-memory preference, -1000 to 1000."),
        options("--ulimit", metavar="NAME=SOFT[:HARD]", help="Limit of getrlimit(2), such as nofile=1024:2048."),
        option("--cgroup", metavar="DRIVER", help="Cgroup driver."),
        options("--cgroup-opt", metavar="NAME=VALUE", help="Option of the cgroup driver."),
        option("--cgroup-parent", metavar="PATH", help="Parent group  [plugengine]"),
    )


def isolation_options() -> tuple[click.Option, ...]:
    """Return the options about rights and namespaces."""
    return (
        options("--cap-add", metavar="CAPABILITY", help="Give a capability, or ALL."),
        options("--cap-drop", metavar="CAPABILITY", help="Take a capability away, or ALL."),
        switch("--privileged", help="Give every right and every device."),
        options("--security-opt", metavar="OPTION", help="seccomp=FILE|unconfined, no-new-privileges …"),
        options("--device", metavar="HOST[:GUEST][:ACCESS]", help="Give a device of the host."),
        options("--device-cgroup-rule", metavar="RULE", help="Allow devices, such as 'c 42:* rmw'."),
        options("--sysctl", metavar="NAME=VALUE", help="Set a kernel parameter of the container."),
        option("--userns", metavar="host|auto|UID:GID:SIZE", help="User namespace."),
        option("--pid", metavar="MODE", help="Process ids: private, host or container:NAME."),
        option("--ipc", metavar="MODE", help="Shared memory: private, host or container:NAME."),
        option("--uts", metavar="MODE", help="Host name: private, host or container:NAME."),
        option("--cgroupns", metavar="MODE", help="View of control groups: private or host."),
        option("--namespace", metavar="DRIVER", help="Namespace driver."),
        options("--namespace-opt", metavar="NAME=VALUE", help="Option of the namespace driver."),
        option("--runtime", metavar="DRIVER", help="Runtime driver."),
        options("--runtime-opt", metavar="NAME=VALUE", help="Option of the runtime driver."),
    )


def container_options() -> tuple[click.Option, ...]:
    """Return everything `create` takes."""
    return (
        *process_options(),
        *filesystem_options(),
        *network_options(),
        *limit_options(),
        *isolation_options(),
    )


def detach_keys_option() -> click.Option:
    """Return --detach-keys."""
    return option("--detach-keys", metavar="KEYS", help="Keys that detach  [ctrl-p,ctrl-q]")


def sig_proxy_option() -> click.Option:
    """Return --sig-proxy, which is true unless said otherwise."""
    # None when not given: with a default of True the bare flag means False for click before 8.2.
    return click.Option(["--sig-proxy"], is_flag=True, default=None, help="Pass signals on to the command  [true]")
