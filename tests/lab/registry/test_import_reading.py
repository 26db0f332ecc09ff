"""What the import reads: digests, JSON with Go's error texts, names, the storage, and progress bars."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from georeg_lab.registry import digests, go_json, import_log, storage
from georeg_lab.registry.db import driver_text
from georeg_lab.registry.importer_manifests import parse_name
from georeg_lab.registry.importer_progress import Bar
from georeg_lab.registry.lockfiles import Lockfiles
from georeg_lab.registry.storage import InvalidPathError, PathNotFoundError, Storage, StorageError

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid checksum digest format"),
        ("not a digest", "invalid checksum digest format"),
        ("sha256:", "invalid checksum digest format"),
        (f"sha256:{HASH[:-2]}zz", "invalid checksum digest format"),
        (f"md5:{HASH}", "unsupported digest algorithm"),
        (f"sha256:{HASH}\n", "invalid checksum digest length"),
        (f"sha256:{HASH[:-1]}", "invalid checksum digest length"),
        (f"sha384:{HASH}", "invalid checksum digest length"),
    ],
)
def test_digests_that_are_none(text: str, message: str) -> None:
    with pytest.raises(digests.DigestError, match=message):
        digests.validate(text)
    assert not digests.is_valid(text)


def test_stored_digests() -> None:
    assert digests.to_bytes(f"sha256:{HASH}") == b"\x01" + bytes.fromhex(HASH)
    assert digests.from_bytes(memoryview(b"\x02" + bytes.fromhex(HASH * 2))) == f"sha512:{HASH * 2}"
    with pytest.raises(digests.UnknownAlgorithmError, match='unknown algorithm "sha384"'):
        digests.to_bytes(f"sha384:{HASH}")
    assert digests.of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
        (b"", "unexpected end of JSON input"),
        (b'{"a": [1, {"b": "c', "unexpected end of JSON input"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a": 1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"{a: 1}", "invalid character 'a' looking for beginning of object key string"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b"'a'", "invalid character '\\'' looking for beginning of value"),
        (b'"a\nb"', "invalid character '\\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
        (b'"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
        (b"-a", "invalid character 'a' in numeric literal"),
        (b"01", "invalid character '1' after top-level value"),
        (b"1.a", "invalid character 'a' after decimal point in numeric literal"),
        (b"1e+", "unexpected end of JSON input"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
    ],
)
def test_texts_of_bad_json(data: bytes, message: str) -> None:
    with pytest.raises(go_json.GoJSONError) as caught:
        go_json.loads(data)
    assert str(caught.value) == message


def test_good_json() -> None:
    assert go_json.loads(b'{"a": [1, -2.5e3, true, null, "\\u00e9"]}') == {"a": [1, -2500.0, True, None, "é"]}


@pytest.mark.parametrize("name", ["a", "a/b", "a-b/c.d_e__f--g", "0/1"])
def test_names_of_repositories(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize("name", ["acme/Upper", "a//b", "a/-b", "a/b_", "a/..b", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="invalid reference format"):
        parse_name(name)


def test_name_too_long() -> None:
    with pytest.raises(ValueError, match="repository name must not be more than 255 characters"):
        parse_name("a/" + "b" * 254)


# --- storage


@pytest.fixture
def files(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def test_reads_and_writes(files: Storage, tmp_path: Path) -> None:
    files.write("/a/b", b"one")
    assert files.append("/a/b", b"two") == 6
    assert files.read("/a/b") == b"onetwo"
    with files.open("/a/b", 3) as file:
        assert file.read() == b"two"
    files.move("/a/b", "/c/d")
    assert files.exists("/c/d")
    assert not files.exists("/a/b")
    files.delete("/c")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_error_texts(files: Storage, tmp_path: Path) -> None:
    files.write("/file", b"")
    for path, kind, message in (
        ("/nothing", PathNotFoundError, "filesystem: Path not found: /nothing"),
        ("/a b", InvalidPathError, "filesystem: invalid path: /a b"),
        ("/file/below", StorageError, f"filesystem: open {tmp_path}/file/below: not a directory"),
    ):
        with pytest.raises(kind) as caught:
            files.read(path)
        assert str(caught.value) == message


def test_repositories_are_walked_in_byte_order(files: Storage) -> None:
    for name in ("b", "a/c", "a", "a/b/_upload/x", "a/b-c"):
        files.write(f"{storage.REPOSITORIES}/{name}/_manifests/tags/t/current/link", b"x")
    files.write(f"{storage.REPOSITORIES}/a/_layers/sha256/x/link", b"x")
    assert list(files.repositories()) == ["a", "a/b-c", "a/c", "b"]
    assert files.has_repository("a/b-c")
    assert not files.has_repository("a/b")
    assert files.tags("a/c") == ["t"]


def test_links_of_a_layout() -> None:
    digest = f"sha256:{HASH}"
    assert storage.blob_path(digest) == f"/docker/registry/v2/blobs/sha256/ab/{HASH}/data"
    assert storage.digest_of_blob_path(storage.blob_path(digest)) == digest
    folder = "/docker/registry/v2/repositories/g/p"
    assert storage.layer_link_path("g/p", digest) == f"{folder}/_layers/sha256/{HASH}/link"
    assert storage.revision_link_path("g/p", digest) == f"{folder}/_manifests/revisions/sha256/{HASH}/link"
    assert storage.tag_index_link_path("g/p", "t", digest) == f"{folder}/_manifests/tags/t/index/sha256/{HASH}/link"
    assert storage.upload_folder("g/p", "u") == f"{folder}/_uploads/u"


def test_lockfiles(files: Storage) -> None:
    log = import_log.Logger(io.StringIO())
    locks = Lockfiles(files)
    assert locks.present() == []
    locks.filesystem.lock()
    locks.hand_over(log)
    assert locks.present() == ["database-in-use"]
    with pytest.raises(StorageError, match="could not restore lockfiles: database-in-use lockfile exists"):
        locks.restore(log, dry_run=True)
    locks.restore(log, dry_run=False)
    assert locks.present() == ["filesystem-in-use"]
    assert files.read("/docker/registry/lockfiles/filesystem-in-use") == b'{"version":1}'


# --- texts


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            'connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs the server running?',
            "h:5432 (10.0.0.1): dial error: dial tcp 10.0.0.1:5432: connect: connection refused",
        ),
        (
            'connection to server at "h" (10.0.0.1), port 5432 failed: SSL error: certificate verify failed',
            "h:5432 (10.0.0.1): tls error: tls: failed to verify certificate: x509: certificate signed by unknown "
            "authority",
        ),
        (
            'connection to server at "10.0.0.1", port 5432 failed: server certificate for "db" does not match host '
            'name "h"',
            "h:5432 (10.0.0.1): tls error: tls: failed to verify certificate: x509: certificate is valid for db, not h",
        ),
        (
            'connection to server on socket "/pg/.s.PGSQL.5432" failed: No such file or directory\n\tIs it?',
            "/pg/.s.PGSQL.5432 (h): dial error: dial unix /pg/.s.PGSQL.5432: connect: no such file or directory",
        ),
        (
            'connection to server at "10.0.0.1", port 5432 failed: FATAL:  no pg_hba.conf entry for host "x"',
            'h:5432 (10.0.0.1): server error: FATAL: no pg_hba.conf entry for host "x" (SQLSTATE 28000)',
        ),
    ],
)
def test_driver_texts(message: str, text: str) -> None:
    assert driver_text(message, "h", 5432) == text


def test_log_line_forms() -> None:
    stream = io.StringIO()
    import_log.Logger(stream, "warn", "text", {}).bind(a="x y", b=True, c=1).warning("two words")
    import_log.Logger(stream, "warn", "json", {}).error("m", e="a<b & c")
    import_log.Logger(stream, "warn", "json", {}).info("left out")
    text, line = stream.getvalue().splitlines()
    assert text.split(" ", 1)[1] == 'level=warning msg="two words" a="x y" b=true c=1'
    assert line.startswith('{"e":"a\\u003cb \\u0026 c","level":"error","msg":"m","time":"20')


def test_a_bar_is_drawn_full_when_the_work_ends_early() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Bar(stream, "importing tags in a", "tags", 3) as bar:
        bar.advance()
        raise RuntimeError
    drawn = [piece for piece in stream.getvalue().split("\r") if piece.strip()]
    assert drawn[0].startswith("  33% [============>" + " " * 27 + "] (1/3, ")
    assert drawn[1].startswith(" 100% [" + "=" * 40 + "] (3/3, ")
