"""Hosts of our own: network namespaces joined to one another by veth pairs, and a firewall where one is wanted."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    """A network namespace."""

    name: str

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def run(self, *command: str) -> str:
        return sh(*self.prefix, *command)

    def deny_inbound(self) -> None:
        """Nothing comes in but answers."""
        self.run("nft", "add table inet filter; add chain inet filter input { type filter hook input priority 0; policy drop; };"
                 " add rule inet filter input ct state established,related accept; add rule inet filter input iif lo accept")

    def listeners(self) -> list[str]:
        """Addresses that some socket listens on, TCP and UDP, loopback left out."""
        lines = self.run("ss", "-Hltun").splitlines()
        local = [line.split()[4] for line in lines if line.strip()]
        return [address for address in local if not address.startswith(("127.", "[::1]"))]


class Hosts:
    """Makes hosts and links, and removes them. Links of one name are replaced, so each user has a name of its own."""

    def __init__(self, name: str = "pl") -> None:
        self.name = name
        self.made: list[Host] = []
        self.links: list[str] = []

    def add(self, name: str) -> Host:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        sh("ip", "netns", "add", name)
        host = Host(name)
        host.run("ip", "link", "set", "lo", "up")
        self.made.append(host)
        return host

    def link(self, one: Host | None, other: Host, net: str) -> None:
        """`one` gets `net`.1, `other` gets `net`.2; None is the machine itself."""
        left, right = f"{self.name}{len(self.links)}a", f"{self.name}{len(self.links)}b"
        subprocess.run(["ip", "link", "del", left], capture_output=True)
        sh("ip", "link", "add", left, "type", "veth", "peer", "name", right)
        self.links.append(left)
        for name, host, last in ((left, one, 1), (right, other, 2)):
            prefix = []
            if host:
                sh("ip", "link", "set", name, "netns", host.name)
                prefix = host.prefix
            sh(*prefix, "ip", "addr", "add", f"{net}.{last}/24", "dev", name)
            sh(*prefix, "ip", "link", "set", name, "up")

    def remove(self) -> None:
        for link in self.links:
            subprocess.run(["ip", "link", "del", link], capture_output=True)
        for host in self.made:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)


def certificate(directory: Path, *addresses: str) -> None:
    """`ca.pem`, `cert.pem` and `key.pem` for a server at these addresses or under these names."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ",".join(f"{'IP' if address[0].isdigit() else 'DNS'}:{address}" for address in addresses)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    sh("openssl", "req", "-x509", *key, "-days", "3", "-subj", "/CN=journey CA", "-keyout", f"{directory}/ca.key",
       "-out", f"{directory}/ca.pem", "-addext", "keyUsage=critical,keyCertSign")
    sh("openssl", "req", *key, "-subj", "/CN=server", "-keyout", f"{directory}/key.pem", "-out", f"{directory}/csr.pem")
    (directory / "extensions").write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n")
    sh("openssl", "x509", "-req", "-in", f"{directory}/csr.pem", "-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key",
       "-CAcreateserial", "-days", "2", "-extfile", f"{directory}/extensions", "-out", f"{directory}/cert.pem")
