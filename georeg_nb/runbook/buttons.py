"""Buttons that ask. They hold no evidence: after a click a static text with who, what and when stands in their place.

A click arrives while a cell runs or not, in the main thread or in another one: all it does is to call a function that
is safe to call from anywhere, and to replace its own output.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from georeg_nb.display import Document, Headline
from georeg_nb.runbook.views import PlannedStep


def someone_is_there() -> bool:
    """Whether a person sits in front of this kernel. JupyterLab's server and VS Code say so; papermill does not."""
    if "GEOREG_RUN" in os.environ:
        return False  # our runner's kernel, wherever it was started from
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ


def ask(
    steps: list[PlannedStep],
    approve: Callable[[PlannedStep], str],
    attest: Callable[[PlannedStep, str], str],
) -> None:
    """Show a button below a plan for each step that waits. `approve` and `attest` return the sentence that stays."""
    for planned in steps:
        if planned.status == "waits for approval":
            _approve_button(planned, approve)
        elif planned.status == "waits for attestation":
            _attest_form(planned, attest)


def _approve_button(planned: PlannedStep, approve: Callable[[PlannedStep], str]) -> None:
    import ipywidgets as widgets  # only where there is someone to press it

    final = "" if planned.ref.step.reversible else " — cannot be undone"
    button = widgets.Button(
        description=f"Approve {planned.ref.id}{final}",
        button_style="" if planned.ref.step.reversible else "danger",
        layout=widgets.Layout(width="auto"),
        tooltip=f"approves the plan {planned.digest[:16]} shown above; then run this cell again",
    )
    handle = _display(button)
    button.on_click(lambda _: _answer(handle, button, lambda: approve(planned)))


def _attest_form(planned: PlannedStep, attest: Callable[[PlannedStep, str], str]) -> None:
    import ipywidgets as widgets

    text = widgets.Text(placeholder="what you did, and where it can be found", layout=widgets.Layout(width="32em"))
    button = widgets.Button(description=f"I did {planned.ref.id}", layout=widgets.Layout(width="auto"))
    handle = _display(widgets.HBox([text, button]))

    def clicked(_: Any) -> None:
        if said := text.value.strip():
            _answer(handle, button, lambda: attest(planned, said))

    button.on_click(clicked)


def _answer(handle: Any, button: Any, act: Callable[[], str]) -> None:
    button.disabled = True
    try:
        sentence = act()
    except Exception as error:
        # Raised in a callback it would reach no one: it is shown where the button was.
        handle.update(Document("answer", [Headline("failed", f"{type(error).__name__}: {error}")]))
        return
    handle.update(Document("answer", [Headline("approved", f"{sentence} — run this cell again.")]))


def _display(widget: Any) -> Any:
    from IPython.display import display

    return display(widget, display_id=True)
