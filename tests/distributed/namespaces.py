"""Several hosts on one machine: network namespaces with an address each, cabled to a hub.

It needs root and the `ip` command. Processes of all hosts share the machine's disks.
"""

import contextlib
import itertools
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Host:
    """A host by the name of its namespace and its address."""

    name: str
    address: str


class Network:
    """The hub, which is a host too, and those that were added; all are gone when it is closed."""

    def __init__(self) -> None:
        self.hub = Host(f"sdst{os.getpid()}hub", "10.78.0.1")
        self._numbers = itertools.count(2)
        self._hosts: list[Host] = []
        _ip("netns", "add", self.hub.name)
        _ip("-n", self.hub.name, "link", "add", "bridge", "type", "bridge")
        self._connect(self.hub, "bridge")

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        for host in (*self._hosts, self.hub):
            self.kill(host)
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True)

    def add(self) -> Host:
        """A new host, up and connected."""
        number = next(self._numbers)
        host = Host(f"sdst{os.getpid()}n{number}", f"10.78.0.{number}")
        _ip("netns", "add", host.name)
        self._hosts.append(host)
        _ip("link", "add", "cable", "netns", host.name, "type", "veth",
            "peer", f"to{number}", "netns", self.hub.name)  # fmt: skip
        _ip("-n", self.hub.name, "link", "set", f"to{number}", "master", "bridge", "up")
        self._connect(host, "cable")
        return host

    def start(self, host: Host, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on a host."""
        return subprocess.Popen(["ip", "netns", "exec", host.name, *command], **options)

    def cut(self, host: Host) -> None:
        """Pull the cable: what runs there goes on and reaches nobody."""
        _ip("-n", host.name, "link", "set", "cable", "down")

    def kill(self, host: Host) -> None:
        """Kill all that runs there at once, as a power failure does."""
        listing = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True)
        for pid in listing.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def _connect(self, host: Host, device: str) -> None:
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", device)
        for up in (device, "lo"):
            _ip("-n", host.name, "link", "set", up, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
