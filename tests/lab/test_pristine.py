"""georeg_lab.sites.pristine: whatever is done to the files, afterwards they are what they were."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from georeg_lab.sites import pristine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kept tree `site`, beside files that are not part of it."""
    for name in ("site/a/one", "site/a/two", "site/b/c/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "site/empty").mkdir(mode=0o700)
    (tmp_path / "site/link").symlink_to("a/one")
    (tmp_path / "beside").write_text("not kept")
    assert not pristine.exists(tmp_path)
    pristine.keep(tmp_path, ["site"])
    assert pristine.exists(tmp_path)
    return tmp_path


def test_nothing_changed(folder: Path) -> None:
    assert pristine.restore(folder, ["site"]) == 0


def test_everything_that_can_change(folder: Path) -> None:
    before = pristine.contents(folder, ["site"])
    site = folder / "site"
    (site / "a/one").write_text("SITE/A/ONE")  # same size
    os.utime(site / "a/one", ns=(before["site/a/one"][3] + 1,) * 2)  # type: ignore[operator]
    (site / "a/two").chmod(0o600)
    shutil.rmtree(site / "b")
    (site / "b").write_text("a file where a folder was")
    (site / "empty").rmdir()
    (site / "link").unlink()
    (site / "link").mkdir()
    (site / "link/inside").write_text("x")
    (site / "new/deep").mkdir(parents=True)
    (site / "new/deep/file").write_text("x")
    (site / "dangling").symlink_to("nowhere")
    (folder / "beside").write_text("changed")
    assert pristine.restore(folder, ["site"]) > 8
    assert pristine.contents(folder, ["site"]) == before
    assert [(site / name).read_text() for name in ("a/one", "b/c/three", "link")] == [
        "site/a/one",
        "site/b/c/three",
        "site/a/one",
    ]
    assert (folder / "beside").read_text() == "changed"
    assert pristine.restore(folder, ["site"]) == 0


def test_names_that_look_like_options(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    names = ["--help", "-x", "with\nnewline", "*", "back\\slash"]
    for name in names:
        (tmp_path / "site" / name).write_text(name)
    pristine.keep(tmp_path, ["site"])
    for name in names:
        (tmp_path / "site" / name).unlink()
    pristine.restore(tmp_path, ["site"])
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == sorted(names)
