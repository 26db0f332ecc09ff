"""By hand: JupyterLab in a real browser. Run All is a plan; Approve pressed, it is the same migration as headless."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from observe import tags_in_database, tags_on_disk
from workplace import GEOREG, PARAMETERS, SCENARIO, Workplace, outcomes

from georeg_lab.images import LOST
from georeg_lab.postgres import free_port
from georeg_nb.ledger import verdict

pytestmark = [pytest.mark.lab, pytest.mark.browser]

CHROMIUM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
TOKEN = "browser-test"
IDLE = '#jp-bottom-panel >> text="Python 3 (ipykernel) | Idle"'
APPROVE = '.jp-OutputArea button.jupyter-button:has-text("Approve")'
ATTEST = '.jp-OutputArea button.jupyter-button:has-text("I did")'
CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--disable-component-update", "--no-proxy-server"),
)


@pytest.fixture
def opened(fresh_workplace: Workplace, tmp_path: Path) -> Iterator[str]:
    """`georeg open`, with Jupyter settings of its own and nothing attested. Yields JupyterLab's address."""
    home = tmp_path / "jupyter"
    settings = home / "settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews":"false","checkForUpdates":false}')
    port = free_port()
    folders = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    env = fresh_workplace.environment(
        {
            **{f"JUPYTER_{name}": str(home / folder) for name, folder in folders.items()},
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_TOKEN": TOKEN,
            "PATH": f"{GEOREG.parent}{os.pathsep}{os.environ['PATH']}",
        }
    )
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(str(GEOREG), "open", SCENARIO, "-f", PARAMETERS, "-p", "attest={}", "--", "--no-browser"),
                *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
                *("--LabApp.news_url=None", "--LabApp.extension_manager=readonly"),
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=env,
            cwd=fresh_workplace.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(address) or process.poll() is not None, 90, "JupyterLab did not answer")
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/api?token={TOKEN}", timeout=2).ok
    except requests.ConnectionError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float, problem: str) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, problem
        time.sleep(0.3)
    return found


def ledger(workplace: Workplace) -> list[dict[str, Any]]:
    """The newest ledger; a last line that is being written is left out."""
    ledgers = sorted(workplace.records.glob("*/ledger.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = ledgers[-1].read_text().splitlines(keepends=True) if ledgers else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def closings(workplace: Workplace) -> int:
    """How often the summary cell was reached."""
    return sum(entry["event"] == "run.closed" for entry in ledger(workplace))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install the package chromium")
def test_a_migration_by_hand(fresh_workplace: Workplace, opened: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    shots = Path(os.environ.get("GEOREG_SCREENSHOTS", tmp_path))
    before = {site: tags_on_disk(fresh_workplace.lab, site) for site in ("primary", "secondary")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*CHROMIUM_FLAGS])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{opened}/lab/tree/{SCENARIO}.ipynb?token={TOKEN}&reset")
        page.wait_for_selector(IDLE, timeout=120_000)

        def run_all() -> None:
            seen = closings(fresh_workplace)
            page.click('.lm-MenuBar-itemLabel >> text="Run"')
            page.click('li[data-command="runmenu:run-all"]')
            wait_for(lambda: closings(fresh_workplace) > seen, 300, "Run All did not reach the summary")
            page.wait_for_selector(IDLE, timeout=60_000)

        run_all()
        planned = verdict(ledger(fresh_workplace))
        assert planned.planned and planned.exit_code == 0
        assert "done" not in outcomes(ledger(fresh_workplace)).values()
        waiting = [step for step, outcome in outcomes(ledger(fresh_workplace)).items() if outcome == "not approved"]

        for field in page.locator(".jp-OutputArea input[type=text]").all():
            field.scroll_into_view_if_needed()
            field.fill("snapshot of the storage, by the night shift")
        page.screenshot(path=str(shots / "plan.png"))
        while page.locator(ATTEST).count():
            press(page, ATTEST)
        while page.locator(APPROVE).count():
            press(page, APPROVE)
        page.screenshot(path=str(shots / "approved.png"))
        answered = {entry["step"] for entry in ledger(fresh_workplace) if entry["event"] in ("approval", "attestation")}
        assert answered == set(waiting)

        run_all()
        page.locator(".jp-OutputArea >> text=Done and verified").last.scroll_into_view_if_needed()
        page.screenshot(path=str(shots / "done.png"))
        browser.close()

    applied = verdict(ledger(fresh_workplace))
    assert applied.exit_code == 0, applied.problems
    assert set(outcomes(ledger(fresh_workplace)).values()) <= {"done", "no-op", "skipped by rule"}
    for site, tags in before.items():
        found = tags_in_database(fresh_workplace.lab, site)
        assert {key: found.get(key) for key in tags if key != LOST} == {k: v for k, v in tags.items() if k != LOST}


def press(page: Any, selector: str) -> None:
    """Press the first such button, and wait until its answer has taken its place."""
    count = page.locator(selector).count()
    button = page.locator(selector).first
    button.scroll_into_view_if_needed()
    button.click()
    wait_for(lambda: page.locator(selector).count() < count, 30, "the button stayed")
