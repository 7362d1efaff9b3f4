"""Two network namespaces with separate addresses train one model together, once, as two hosts would. Needs root on Linux.

    python scripts/two_hosts.py            prints what came of it; exit code 0 where both ended with the bits of one process

Each namespace has its own loopback, one end of a virtual cable and nothing else: 10.77.0.1 and 10.77.0.2. In each runs one
torchrun of one process; they meet at 10.77.0.1:29400. The store is a folder that both see, as a shared file system.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = {"camelid-a": ("cam-a", "10.77.0.1"), "camelid-b": ("cam-b", "10.77.0.2")}
GROW = ["-m", "camelid", "grow", "llama", "--size", "tiny", "--threads", "1"]
LIMIT = 300  # seconds


def missing() -> str:
    """Why this cannot run here; "" where it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if shutil.which("ip") is None:
        return "needs the command ip (iproute2)"
    probe = subprocess.run(["ip", "netns", "add", "camelid-probe"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"network namespaces are not to be had here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "camelid-probe"], check=True)
    return ""


def main() -> int:
    if why := missing():
        print(f"not run: {why}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        alone, together = Path(folder) / "alone", Path(folder) / "together"
        subprocess.run(
            [sys.executable, *GROW, "--store", str(alone)], check=True, capture_output=True, timeout=LIMIT, env=plain()
        )
        try:
            lay_cable()
            began = time.monotonic()
            codes = [host.wait(LIMIT) for host in [start(name, together) for name in HOSTS]]
            seconds = time.monotonic() - began
        finally:
            for name in HOSTS:
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        digests = [digest(store) for store in (alone, together)]
    equal = digests[0] == digests[1]
    print(
        f"two hosts: exit codes {codes}, {seconds:.0f} s; weights {'equal' if equal else 'NOT equal'} to one process's"
    )
    return 0 if equal and codes == [0, 0] else 1


def lay_cable() -> None:
    """Both namespaces and the cable between them."""
    (one, (end, _)), (other, (far, _)) = HOSTS.items()
    commands = [["netns", "add", name] for name in HOSTS]
    commands.append(["link", "add", end, "netns", one, "type", "veth", "peer", "name", far, "netns", other])
    for name, (device, address) in HOSTS.items():
        commands.append(["-n", name, "addr", "add", f"{address}/24", "dev", device])
        commands += [["-n", name, "link", "set", each, "up"] for each in ("lo", device)]
    for command in commands:
        subprocess.run(["ip", *command], check=True)


def start(name: str, store: Path) -> subprocess.Popen[bytes]:
    """One host's torchrun."""
    device, address = HOSTS[name]
    launch = ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(list(HOSTS).index(name))]
    launch += ["--master-addr", HOSTS["camelid-a"][1], "--master-port", "29400"]
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *launch]
    environment = {**plain(), "GLOO_SOCKET_IFNAME": device}
    print(f"{name} at {address} starts")
    return subprocess.Popen([*command, *GROW, "--store", str(store)], env=environment, stdout=subprocess.DEVNULL)


def plain() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def digest(store: Path) -> str:
    """Of the weights that were grown there."""
    (model,) = (store / "stages").glob("*/model.safetensors")
    return hashlib.sha256(model.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
