"""Several hosts on one machine: network namespaces with an address each, cabled to a hub.

It needs root and the `ip` command. Processes of all hosts share the machine's disks.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Host:
    """A host by the name of its namespace and its address."""

    name: str
    address: str


class Network:
    """The hub, which is a host too, and those that were added.

    To be used in a `with` statement: at its end all are gone, with what runs there.
    """

    def __init__(self) -> None:
        self.hub = Host(f"sdst{os.getpid()}hub", "10.78.0.1")
        self._numbers = itertools.count(2)

    def __enter__(self) -> "Network":
        remove_orphans()
        try:
            _ip("netns", "add", self.hub.name)
            _ip("-n", self.hub.name, "link", "add", "bridge", "type", "bridge")
            self._connect(self.hub, "bridge")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _remove(os.getpid())

    def add(self) -> Host:
        """A new host, up and connected."""
        number = next(self._numbers)
        host = Host(f"sdst{os.getpid()}n{number}", f"10.78.0.{number}")
        _ip("netns", "add", host.name)
        _ip("link", "add", "cable", "netns", host.name, "type", "veth",
            "peer", f"to{number}", "netns", self.hub.name)  # fmt: skip
        _ip("-n", self.hub.name, "link", "set", f"to{number}", "master", "bridge", "up")
        self._connect(host, "cable")
        return host

    def start(self, host: Host, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on a host; what ends this process's group leaves it alone."""
        command = ["ip", "netns", "exec", host.name, *command]
        return subprocess.Popen(command, start_new_session=True, **options)

    def cut(self, host: Host) -> None:
        """Pull the cable: what runs there goes on and reaches nobody."""
        _ip("-n", host.name, "link", "set", "cable", "down")

    def kill(self, host: Host) -> None:
        """Kill all that runs there at once, as a power failure does."""
        _kill(host.name)

    def _connect(self, host: Host, device: str) -> None:
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", device)
        for up in (device, "lo"):
            _ip("-n", host.name, "link", "set", up, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def remove_orphans() -> None:
    """Remove the hosts of processes that could not do it themselves, because they were killed."""
    for pid in {int(pid) for _, pid in _namespaces()}:
        if not Path(f"/proc/{pid}").exists():
            _remove(pid)


def _namespaces() -> list[tuple[str, str]]:
    """Name, and id of the process that made it, of every namespace of this module's."""
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    return re.findall(r"^(sdst(\d+)(?:hub|n\d+))\b", listing.stdout, re.MULTILINE)


def _remove(pid: int) -> None:
    for name, maker in _namespaces():
        if int(maker) == pid:
            _kill(name)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _kill(name: str) -> None:
    # Again until none is left: a process may have started others since they were listed.
    for _ in range(100):
        listing = subprocess.run(["ip", "netns", "pids", name], capture_output=True)
        pids = listing.stdout.split()
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
