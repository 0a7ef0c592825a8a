"""A CNI plugin for tests: writes down how it was called, and does what its configuration says under "behave"."""

import json
import os
import subprocess
import sys
import time

name = os.path.basename(sys.argv[0])
command = os.environ["CNI_COMMAND"]
config = json.load(sys.stdin)
with open(os.path.join(os.path.dirname(sys.argv[0]), "log"), "a") as log:
    call = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
    netns = os.environ["CNI_NETNS"]
    inode = os.stat(netns).st_ino if os.path.exists(netns) else 0
    log.write(json.dumps({"plugin": name, "command": command, "config": config, "inode": inode, **call}) + "\n")
behave = config.get("behave", {}).get(command, "")
sys.stderr.write(f"{name} was asked to {command}\n")
if behave == "fail once" and os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), "fail")):
    os.unlink(os.path.join(os.path.dirname(sys.argv[0]), "fail"))
    behave = "error"
if behave == "error":
    sys.stdout.write(
        json.dumps({"cniVersion": config["cniVersion"], "code": 107, "msg": "no luck", "details": "at all"}) + "\n"
    )
    sys.exit(1)
if behave == "garbage":
    sys.stdout.write("<html>" + "\n")
    sys.exit(0)
if behave == "silent":
    sys.exit(3)
if behave == "kill":
    os.kill(os.getpid(), 9)
if behave == "hang":
    child = subprocess.Popen(["sleep", "1000"])
    with open(os.path.join(os.path.dirname(sys.argv[0]), "child"), "w") as stream:
        stream.write(str(child.pid))
    time.sleep(1000)
if behave == "flood":
    sys.stderr.write("x" * (1 << 20))
if command == "VERSION":
    spoken = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    if name.startswith("old"):
        spoken = ["0.2.0", "0.3.1"]
    if name == "none":
        sys.stdout.write(json.dumps({"cniVersion": "1.0.0"}) + "\n")
    else:
        sys.stdout.write(json.dumps({"cniVersion": "1.0.0", "supportedVersions": spoken}) + "\n")
elif command == "ADD":
    result = config.get("prevResult") or {
        "cniVersion": config["cniVersion"],
        "interfaces": [
            {"name": "host0", "mac": "02:00:00:00:00:01"},
            {"name": os.environ["CNI_IFNAME"], "mac": "02:00:00:00:00:02", "sandbox": netns, "mtu": 1400},
        ],
        "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.1.2.53"]},
    }
    if behave == "future":
        result["cniVersion"] = "9.0.0"
    if behave == "bad interface":
        result["ips"][0]["interface"] = 7
    result.setdefault("routes", []).append({"dst": f"192.0.2.{len(result['routes'])}/32"})
    sys.stdout.write(json.dumps(result) + "\n")
