"""Hosts as network namespaces of Linux, which reach the servers of this one by address."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest


class Host:
    """Network namespace with a link to this host, and a host name.

    Args:
        name: Its host name.
        number: Number of its network, from 0 to 63.
    """

    def __init__(self, name, number):
        network = f"10.213.{number + 64 * (os.getpid() % 4)}"
        self.name, self.here, self.there = name, f"{network}.1", f"{network}.2"
        self._space = f"agenttts-{os.getpid()}-{number}"
        self._link = f"agt{os.getpid() % 10**6}h{number}"

    def open(self):
        """Create namespace and link."""
        peer = f"{self._link}p"
        _ip("netns", "add", self._space)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", peer)
        _ip("link", "set", peer, "netns", self._space)
        _ip("addr", "add", f"{self.here}/24", "dev", self._link)
        _ip("link", "set", self._link, "up")
        for command in (
            ["addr", "add", f"{self.there}/24", "dev", peer],
            ["link", "set", peer, "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", self._space, *command)

    def close(self):
        """Delete namespace and link."""
        subprocess.run(["ip", "link", "del", self._link], capture_output=True)
        subprocess.run(["ip", "netns", "del", self._space], capture_output=True)

    def plug(self, connected):
        """Connect the network, or cut it off."""
        _ip("link", "set", self._link, "up" if connected else "down")

    def command(self, command):
        """Return a command that runs on the host."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self._space, *named, *command]


@contextmanager
def hosts(*names):
    """Create hosts; skip the test where that is not permitted."""
    if shutil.which("ip") is None or shutil.which("unshare") is None or os.getuid() != 0:
        pytest.skip("needs iproute2, util-linux and root, to create network namespaces")
    with ExitStack() as stack:
        found = [Host(name, number) for number, name in enumerate(names)]
        for host in found:
            stack.callback(host.close)
            try:
                host.open()
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces are not permitted here: {error.stderr}")
        yield found


@contextmanager
def reachable(address, ports):
    """Relay ports of an address to the same ports of 127.0.0.1, where test servers listen.

    Another process does so, to keep its connections apart from those of the tests.
    """
    command = [sys.executable, __file__, address, *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as relay:
        assert relay.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            relay.kill()


async def _serve(address, ports):
    for port in ports:
        await asyncio.start_server(partial(_relay, port), address, port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _relay(port, reader, writer):
    inside = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_pass_on(reader, inside[1]), _pass_on(inside[0], writer))


async def _pass_on(reader, writer):
    """Pass on what one side sends until it closes."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2:]))
