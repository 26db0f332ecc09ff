"""Two registries compared over HTTP, against a plain loop of requests that asks the same, in the same run.

    python benchmarks/walk_registries.py [--tags 2000] [--repositories 20] [--latency-ms 5]

Two processes of the registry serve one storage. GEOREG_REGISTRY_BINARY names GitLab's own; without it the lab's
stand-in runs. `--latency-ms` is added to each answer by a relay, as between sites. Each loop runs `--rounds` times;
the medians and their ratio count: seconds alone say more about the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests
import yaml

from georeg_lab.images import MANIFEST_TYPES, Seed, image, index, write_legacy
from georeg_lab.postgres import free_port
from georeg_nb.credentials import Secret
from georeg_nb.parameters import GitLabParameters, RegistryParameters
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.verification import compare_registries

BINARY = os.environ.get("GEOREG_REGISTRY_BINARY")
PROGRAM = [BINARY] if BINARY else [sys.executable, "-m", "georeg_lab.registry"]


class NoTokens:
    """The registries of this benchmark let everybody in."""

    def get(self, scope: str, old: object = None) -> Secret:
        return Secret("none", "no token", masked=False)


def fill(root: Path, repositories: int, tags: int) -> None:
    """`tags` tags, one in twenty of them on an index of two images."""
    each = tags // repositories
    for number in range(repositories):
        path = f"bench/r{number:03d}"
        listed = each // 20
        write_legacy(root, Seed(path, index(f"{number}"), tuple(f"list-{n}" for n in range(listed))))
        write_legacy(root, Seed(path, image(f"{number}", "docker"), tuple(f"t{n}" for n in range(each - listed))))


def start(folder: Path, root: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A legacy registry; returns its process and port once it answers."""
    port = free_port()
    storage = {"filesystem": {"rootdirectory": str(root)}, "maintenance": {"readonly": {"enabled": True}}}
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": storage,
        "http": {"addr": f"127.0.0.1:{port}", "secret": "not so secret"},
    }
    path = folder / f"{port}.yml"
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [*PROGRAM, "serve", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            requests.get(f"http://127.0.0.1:{port}/v2/", timeout=5)
            return process, port
        except requests.ConnectionError:
            time.sleep(0.1)
    raise SystemExit("the registry does not start")


def relay(port: int, to: int, seconds: float) -> None:
    """Pass connections on, each piece of an answer a while later."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: float) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(wait)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(pump(reader, there[1], 0), pump(there[0], writer, seconds), return_exceptions=True)

    async def main() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(main())


def plain(urls: list[str]) -> int:
    """What one would write first: catalog, tags and digests of both sides, children of indexes, one after the other."""
    sides = []
    accept = {"Accept": ", ".join(MANIFEST_TYPES)}
    for url in urls:
        found = {}
        with requests.Session() as session:
            for path in session.get(f"{url}/v2/_catalog?n=1000", timeout=60).json()["repositories"]:
                for tag in session.get(f"{url}/v2/{path}/tags/list", timeout=60).json()["tags"]:
                    head = session.head(f"{url}/v2/{path}/manifests/{tag}", headers=accept, timeout=60)
                    found[path, tag] = head.headers["Docker-Content-Digest"]
                    if "index" in head.headers["Content-Type"]:
                        listed = session.get(f"{url}/v2/{path}/manifests/{tag}", headers=accept, timeout=60).json()
                        for child in listed["manifests"]:
                            session.get(f"{url}/v2/{path}/manifests/{child['digest']}", headers=accept, timeout=60)
        sides.append(found)
    assert sides[0] == sides[1]
    return len(sides[0])


def ours(urls: list[str]) -> int:
    """The walk of the verification."""
    sides = []
    for url in urls:
        gitlab = GitLabParameters.model_validate({"url": url, "token": "env:NONE"})
        registry = RegistryAPI(RegistryParameters.model_validate({"url": url}), gitlab)
        registry._tokens = NoTokens()  # type: ignore[assignment]
        sides.append(registry)
    found = compare_registries(*sides)
    assert found.equal, found
    for registry in sides:
        registry.close()
    return found.tags[0]


def timed(loop: Callable[[list[str]], int], urls: list[str], rounds: int) -> tuple[float, int]:
    """Median seconds, and tags."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        tags = loop(urls)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tags", type=int, default=2000)
    parser.add_argument("--repositories", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "storage", options.repositories, options.tags)
        started = [start(folder, folder / "storage") for _ in range(2)]
        ports = [port for _, port in started]
        relays = []
        try:
            if options.latency_ms:
                for number, to in enumerate(ports):
                    ports[number] = free_port()
                    arguments = (ports[number], to, options.latency_ms / 1000)
                    relays.append(multiprocessing.Process(target=relay, args=arguments, daemon=True))
                    relays[-1].start()
                time.sleep(1)
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            results = {name: timed(loop, urls, options.rounds) for name, loop in (("plain", plain), ("ours", ours))}
        finally:
            for child in relays:
                child.terminate()
            for process, _ in started:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    for name, (seconds, tags) in results.items():
        print(f"{name:>6}: {seconds:7.2f} s, {2 * tags / seconds:7.0f} tags/s over both sides")
    print(f" ratio: {results['plain'][0] / results['ours'][0]:7.2f}")
    print(f"  peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:7d} MiB in this process")


if __name__ == "__main__":
    main()
