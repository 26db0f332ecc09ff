"""Things that go wrong at real sites, brought about in a lab by name or behind georeg's back.

`FAULTS` are the failure symptoms that can be switched on (`georeg lab fault NAME`): each is really produced, by a
setting, a file, a statement or a stopped service, and what shows it is what the lab's programs then do and log.
`CONDITIONS` are context managers of the same kind for tests of refused runs. `Tamper` changes single tags of one site
without the other side, or any event, hearing of it. One fault is always there: `images.LOST`, a tag that the importer
leaves behind.
"""

from georeg_lab.faults.catalogue import FAULTS
from georeg_lab.faults.conditions import CONDITIONS
from georeg_lab.faults.switch import Fault, active, clear, switch_on
from georeg_lab.faults.tamper import Tamper

__all__ = ["CONDITIONS", "FAULTS", "Fault", "Tamper", "active", "clear", "switch_on"]
