"""One channel of a master connection, kept open: command.sh on the node answers request after request.

A channel of its own for each read would cost a client, a session and a login by sudo every time.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

COMMAND = resources.files("georeg_nb.nodes").joinpath("command.sh").read_text()
_FIRST_WORDS = b"georeg-begin\n"
_LONGEST_END = 80  # bytes of the last words


@dataclass(frozen=True)
class Answer:
    """What a command on the node gave."""

    status: int
    stdout: bytes
    stderr: bytes


class ChannelClosed(Exception):
    """It closed before the answer was whole. `status`: ssh's; `said`: what came on standard error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class Channel:
    """A running command.sh at the end of `argv`. For one thread at a time. After an exception it must be closed."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal is not for it
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        self._begun = False
        os.set_blocking(self._in.fileno(), False)

    @property
    def stands(self) -> bool:
        """Whether its client still runs."""
        return self._process.poll() is None

    def ask(self, words: str, stdin: bytes, timeout: float) -> Answer:
        """Have one command run: `words` is CWD [VAR=VALUE ...] -- COMMAND ..., quoted for a shell.

        Raises ChannelClosed, and subprocess.TimeoutExpired after `timeout` seconds: close it, and the node ends it.
        """
        token = secrets.token_hex(16)
        text = words.encode(errors="surrogateescape")
        rest = memoryview(b"%s %d %d\n%s%s%s\n" % (token.encode(), len(text), len(stdin), text, stdin, token.encode()))
        last_words = re.compile(rb"\ngeoreg-end %s (\d+)\n\Z" % token.encode())
        heard = {self._out.fileno(): bytearray(), self._err.fileno(): bytearray()}
        ends: dict[int, tuple[int, int]] = {}  # where its output ends, and the status
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as streams:
            streams.register(self._in, selectors.EVENT_WRITE)
            for stream in heard:
                streams.register(stream, selectors.EVENT_READ)
            listening = len(heard)
            while listening:
                left = deadline - time.monotonic()
                ready = streams.select(left) if left > 0 else []
                if not ready:
                    raise subprocess.TimeoutExpired(words, timeout)
                for key, _ in ready:
                    if key.fd not in heard:
                        rest = self._send(rest)
                        if not rest:
                            streams.unregister(key.fd)
                        continue
                    data = os.read(key.fd, 1 << 16)
                    so_far = heard[key.fd]
                    so_far += data
                    end = last_words.search(so_far, max(0, len(so_far) - _LONGEST_END))
                    if end or not data:
                        streams.unregister(key.fd)
                        listening -= 1
                    if end:
                        ends[key.fd] = end.start(), int(end[1])
                    elif not rest:  # a jump host keeps what comes next until it hears of us, which takes 40 ms (Nagle)
                        self._send(memoryview(b"\n"))
        if len(ends) < len(heard):
            raise ChannelClosed(self._ended(), heard[self._err.fileno()].decode(errors="replace").strip())
        out, err = (bytes(data[: ends[fd][0]]) for fd, data in heard.items())
        if not self._begun:
            out, err = (text.partition(_FIRST_WORDS)[2] for text in (out, err))
            self._begun = True
        return Answer(ends[self._out.fileno()][1], out, err)

    def close(self) -> None:
        """End it, and what runs on the node because of it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._in, self._out, self._err):
            stream.close()

    def _send(self, rest: memoryview) -> memoryview:
        try:
            return rest[os.write(self._in.fileno(), rest) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:  # the other streams tell
            return rest[:0]

    def _ended(self) -> int:
        """Its client's status, which comes a moment after its streams' ends."""
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
