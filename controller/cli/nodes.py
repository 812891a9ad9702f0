"""pbxctl nodes: how each node stands, and taking it out of or into service."""

from __future__ import annotations

import click

from controller.api.shapes import Ask, NodeAction, Nodes
from controller.cli import options, output
from controller.cli.completion import node_names
from controller.cli.output import Column
from controller.cli.session import Session
from controller.cli.waiting import waiting
from controller.fleet.state import NodeView
from controller.model import NodeState

STATE_STYLE = {
    NodeState.ACTIVE: "green",
    NodeState.JOINING: "cyan",
    NodeState.DRAINING: "yellow",
    NodeState.STANDBY: "blue",
    NodeState.EJECTED: "magenta",
    NodeState.DOWN: "red",
}


def percent(share: float) -> str:
    return "-" if share < 0 else f"{share * 100:.0f}%"


def silence(node: NodeView) -> str:
    if node.silent_ms < 0 or not node.driver:
        return "-"
    return f"{node.silent_ms / 1000:.1f}s" if node.silent_ms < 600_000 else "long"


COLUMNS: tuple[Column[NodeView], ...] = (
    Column("NODE", lambda n: n.name),
    Column("REGION", lambda n: n.region, rank=3),
    Column("STATE", lambda n: n.state.value, style=lambda n: STATE_STYLE[n.state]),
    Column("LOAD", lambda n: percent(n.load), right=True),
    Column("CALLS", lambda n: f"{n.calls}+{n.reserved}/{n.calls_max or '-'}", right=True, rank=1),
    Column("ARR/S", lambda n: f"{n.arrivals_per_s:.1f}", right=True, rank=5),
    Column("CPU", lambda n: percent(n.cpu), right=True, rank=4),
    Column("SILENT", silence, right=True, rank=6),
    Column("CHANNELS", lambda n: f"{n.channels}/{n.channels_max or '-'}", wide=True, right=True),
    Column("LOSS", lambda n: percent(n.loss), wide=True, right=True),
    Column("DRIFT", lambda n: n.drift, wide=True, right=True),
    Column("WEIGHT", lambda n: f"{n.weight:g}", wide=True, right=True),
    Column("ADDRESS", lambda n: n.address, wide=True),
    Column("PBX", lambda n: f"{n.kind} {n.version}".strip(), wide=True),
    Column("DRIVER", lambda n: n.driver, wide=True),
    Column("REASON", lambda n: n.problem or n.reason, rank=2, fold_to=24),
)


@options.examples(
    "pbxctl nodes list -w 2",
    "pbxctl nodes drain pbx1",
)
@click.group(cls=options.Nouns)
def nodes() -> None:
    """The PBX nodes of the fleet."""


@options.examples(
    "pbxctl nodes list",
    "pbxctl nodes list --region east --state down",
    "pbxctl nodes list -o name",
)
@nodes.command("list")
@options.reading
@click.option("--region", help="Only nodes of this region.")
@click.option(
    "--state", type=click.Choice([s.value for s in NodeState]), help="Only in this state."
)
@click.pass_obj
def list_(session: Session, region: str | None, state: str | None) -> None:
    """Every node: state, load, calls (live+reserved/limit)."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            seen = gate.get(Nodes, "nodes").nodes
        rows = [
            n
            for n in seen
            if (region is None or n.region == region) and (state is None or n.state == state)
        ]
        output.show(session, Nodes(rows), rows, COLUMNS, lambda n: n.name, empty="no such node")

    output.repeat(session, once)


@options.examples("pbxctl nodes show pbx1")
@nodes.command()
@options.reading
@click.argument("name", shell_complete=node_names)
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Everything known about one node."""
    gate = session.gate()

    def once() -> None:
        with waiting(session, "asking the gate"):
            node = gate.get(NodeView, "nodes", name)
        output.facts(session, node, node.name)

    output.repeat(session, once)


def _act(session: Session, names: tuple[str, ...], verb: str, question: str) -> None:
    gate = session.gate()
    session.confirm(f"{question} {', '.join(names)}?")
    for name in names[1:]:  # one that is not known must not leave those before it changed
        gate.get(NodeView, "nodes", name)
    done: list[NodeAction] = []
    with output.several(session, done, lambda answer: answer.node):
        for name in names:
            with waiting(session, f"{verb}: waiting for {name}"):
                ask = Ask(dry_run=session.dry_run)
                done.append(gate.post(NodeAction, "nodes", name, verb, body=ask))
            output.note(session, _sentence(done[-1]))


def _sentence(a: NodeAction) -> str:
    would = "would go" if a.dry_run else "went"
    text = f"{a.node} {would} from {a.before} to {a.want}; {a.calls} calls stay up on it"
    if a.pbx == "done":
        text += "; the PBX itself was told"
    elif a.pbx:
        text += f"; the PBX itself was not told ({a.pbx}: {a.message or 'no more is known'})"
    return text


def _command(verb: str, question: str, text: str) -> None:
    @options.changing
    @click.argument("names", nargs=-1, required=True, shell_complete=node_names)
    @click.pass_obj
    def command(session: Session, names: tuple[str, ...]) -> None:
        _act(session, names, verb, question)

    options.examples(f"pbxctl nodes {verb} pbx1", f"pbxctl nodes {verb} pbx1 pbx2 --yes -o json")(
        nodes.command(verb, help=text)(command)
    )


_command("drain", "Send no new call to", "No new call; those that are up stay until they end.")
_command("resume", "Send calls again to", "Back into service, its share ramping up.")
_command("eject", "Take out of service", "Out of service until resumed; calls on it are not cut.")
_command("standby", "Put into standby", "Warm and empty; the scaler may take it in.")
