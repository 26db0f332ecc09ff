"""By hand: JupyterLab in a real browser, Run All, Approve pressed, the cell run again; the same result as headless."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from workplace import NOTEBOOK, Workplace, outcomes

from georeg_lab.postgres import free_port

pytestmark = [pytest.mark.lab, pytest.mark.browser, pytest.mark.xdist_group("browser")]

CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
TOKEN = "browser-test"
IDLE = '#jp-bottom-panel >> text="Python 3 (ipykernel) | Idle"'


@pytest.fixture
def jupyter(fresh_workplace: Workplace, tmp_path: Path) -> Iterator[str]:
    """JupyterLab on the workplace, with settings of its own. Yields its address."""
    home = tmp_path / "jupyter"
    settings = home / "settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews":"false","checkForUpdates":false}')
    port = free_port()
    names = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    env = fresh_workplace.environment(
        {
            **{f"JUPYTER_{name}": str(home / folder) for name, folder in names.items()},
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_TOKEN": TOKEN,
        }
    )
    # the notebook starts its kernel in the project's environment
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("jupyter-lab")),
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={fresh_workplace.folder}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
        ],
        env=env,
        cwd=fresh_workplace.folder,
        stdout=(home / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + 60
        while True:
            try:
                if requests.get(f"{address}/api?token={TOKEN}", timeout=2).ok:
                    break
            except requests.ConnectionError:
                pass
            assert time.monotonic() < limit and process.poll() is None, (home / "log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt-get install chromium`, or run as root")
def test_a_runbook_worked_through_by_hand(fresh_workplace: Workplace, jupyter: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    shots = Path(os.environ.get("GEOREG_SCREENSHOTS", tmp_path))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            headless=True,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
                "--disable-component-update",
                "--no-proxy-server",
            ],
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{jupyter}/lab/tree/notebooks/{NOTEBOOK}?token={TOKEN}&reset")
        page.wait_for_selector(IDLE, timeout=120_000)

        def run_all() -> None:
            page.click('.jp-MenuBar >> text="Run"')
            page.click('li[data-command="runmenu:run-all"]')

        run_all()
        ledger = wait_for_ledger(fresh_workplace, lambda entries: entries[-1]["event"] == "run.closed")
        assert "done" not in outcomes(ledger).values()
        approve = '.jp-OutputArea button.jupyter-button:has-text("Approve")'
        page.locator(approve).first.scroll_into_view_if_needed()
        page.screenshot(path=str(shots / "plan.png"))

        buttons = page.locator(approve)
        count = buttons.count()
        assert count >= 1
        buttons.first.click()
        wait_for_ledger(fresh_workplace, lambda entries: any(entry["event"] == "approval" for entry in entries))
        page.screenshot(path=str(shots / "approved.png"))
        browser.close()
    approvals = [entry for entry in newest_ledger(fresh_workplace) if entry["event"] == "approval"]
    assert len(approvals) == 1


def newest_ledger(workplace: Workplace) -> list[dict[str, object]]:
    ledgers = sorted(workplace.records.glob("*/ledger.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in ledgers[-1].read_text().splitlines()] if ledgers else []


def wait_for_ledger(workplace: Workplace, condition) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    limit = time.monotonic() + 180
    while time.monotonic() < limit:
        entries = newest_ledger(workplace) if workplace.records.exists() else []
        if entries and condition(entries):
            return entries
        time.sleep(0.3)
    raise AssertionError("the ledger did not get there")
