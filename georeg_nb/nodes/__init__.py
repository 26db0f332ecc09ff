"""Hosts of a site: read-only commands, files, and detached jobs.

Checks get a read-only view (`Node.read_only_view`). `Node.run` accepts only commands of the table in
`georeg_nb.readers`; whatever changes a node is a detached job, which outlives this process and is found by its name.
"""

from georeg_nb.nodes.jobs import JOBS, Job
from georeg_nb.nodes.master import Master, SshTarget
from georeg_nb.nodes.node import LocalNode, Node, SshNode, node_of
from georeg_nb.nodes.ssh import SshTransport
from georeg_nb.nodes.transport import LocalTransport, Result, Transport
from georeg_nb.readers import READERS

__all__ = [
    "JOBS",
    "READERS",
    "Job",
    "LocalNode",
    "LocalTransport",
    "Master",
    "Node",
    "Result",
    "SshNode",
    "SshTarget",
    "SshTransport",
    "Transport",
    "node_of",
]
