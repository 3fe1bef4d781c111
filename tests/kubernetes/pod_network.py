"""How do pods get addresses and names of their own on this machine?

A pod's network is a namespace; a bridge that podman knows as well joins them.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SUBNET, GATEWAY = "10.77.0", "10.77.0.254"
PODMAN_NETWORK = "sdst"
"""The bridge under the name by which podman knows it."""
os.environ["CONTAINERS_CONF"] = str(Path(__file__).with_name("containers.conf"))


def sh(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


class Network:
    """Hosts on a bridge, each a network namespace with an `eth0`, and the names they answer to."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._hosts = list(names)
        self.names = {
            alias: self.address(host)
            for host, further in names.items()
            for alias in [host, *further]
        }

    def address(self, host: str) -> str:
        return f"{SUBNET}.{self._hosts.index(host) + 1}"

    def namespace(self, host: str) -> str:
        return f"sdst-{self._hosts.index(host)}"

    def link(self, host: str, state: str) -> None:
        """Plug the host's cable in (`up`) or pull it (`down`)."""
        sh("ip", "link", "set", self.namespace(host), state)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """The bridge and the namespaces, for as long as this lasts."""
        self._remove()
        subnet = ("--subnet", f"{SUBNET}.0/24", "--gateway", GATEWAY, "--disable-dns")
        sh("podman", "network", "create", *subnet, PODMAN_NETWORK)
        [known] = json.loads(sh("podman", "network", "inspect", PODMAN_NETWORK))
        bridge = known["network_interface"]
        sh("ip", "link", "add", bridge, "type", "bridge")
        sh("ip", "address", "add", f"{GATEWAY}/24", "dev", bridge)
        sh("ip", "link", "set", bridge, "up")
        for host in self._hosts:
            name = self.namespace(host)
            sh("ip", "netns", "add", name)
            sh("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "link", "set", name, "master", bridge, "up")
            inside = ("ip", "-n", name)
            sh(*inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            sh(*inside, "link", "set", "eth0", "up")
            sh(*inside, "link", "set", "lo", "up")
        try:
            yield
        finally:
            self._remove()

    def _remove(self) -> None:
        for host in self._hosts:
            sh("podman", "rm", "--force", "--time", "0", "--ignore", host)
            sh("ip", "link", "delete", self.namespace(host), check=False)
            sh("ip", "netns", "delete", self.namespace(host), check=False)
        inspected = sh("podman", "network", "inspect", PODMAN_NETWORK, check=False)
        for known in json.loads(inspected or "[]"):
            sh("podman", "network", "rm", "--force", PODMAN_NETWORK)
            sh("ip", "link", "delete", known["network_interface"], check=False)
