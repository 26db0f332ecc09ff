"""`/opt/gitlab/embedded/bin/curl`: the head of an answer, asked with the authorities of the node, and nothing else.

Messages and exit statuses are curl's for what a check tells apart: 6, 7, 28, 35, 60.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from georeg_lab.layout import inside, log_command, root_from_environment

VALUES = {"-o": "/dev/null", "-D": "-"}  # the head is printed, the body is not
WITH_VALUE = ("--max-time", "--cacert", "--capath")


def main(argv: list[str], root: Path) -> int:
    """`curl -sS -o /dev/null -D - [--max-time S] [--cacert FILE] [--capath FOLDER] URL`; 2 for anything else."""
    given, urls, rest = {"--max-time": "300", "--cacert": "", "--capath": ""}, [], list(argv)
    while rest:
        word = rest.pop(0)
        if word in WITH_VALUE and rest:
            given[word] = rest.pop(0)
        elif word in VALUES and rest and rest[0] == VALUES[word]:
            rest.pop(0)
        elif word.startswith("-") and word != "-sS":
            return _failed(2, f"option {word}: is unknown")
        elif not word.startswith("-"):
            urls.append(word)
    if len(urls) != 1:
        return _failed(2, "no URL specified")
    cacert, capath = (str(inside(root, given[name])) if given[name] else None for name in ("--cacert", "--capath"))
    try:
        sys.stdout.write(head(urls[0], float(given["--max-time"]), cacert, capath))
    except socket.gaierror:
        return _failed(6, f"Could not resolve host: {urlsplit(urls[0]).hostname}")
    except ssl.SSLCertVerificationError as error:
        return _failed(60, f"SSL certificate problem: {error.verify_message}")
    except TimeoutError:
        return _failed(28, "Connection timed out")
    except ssl.SSLError as error:
        return _failed(35, f"TLS connect error: {error.reason}")
    except (OSError, http.client.HTTPException):
        parts = urlsplit(urls[0])
        return _failed(7, f"Failed to connect to {parts.hostname} port {parts.port}: Couldn't connect to server")
    return 0


def head(url: str, timeout: float, cacert: str | None, capath: str | None) -> str:
    """Status line and headers of a GET. Raises OSError or HTTPException."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=cacert, capath=capath)
        connection = http.client.HTTPSConnection(str(parts.hostname), parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/")
        answer = connection.getresponse()
        lines = [f"{name}: {value}" for name, value in answer.getheaders()]
        return "\r\n".join([f"HTTP/1.1 {answer.status} {answer.reason}", *lines, "", ""])
    finally:
        connection.close()


def _failed(status: int, message: str) -> int:
    print(f"curl: ({status}) {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    ROOT = root_from_environment()
    log_command(ROOT, ["curl", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:], ROOT))
