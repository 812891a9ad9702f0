"""pbxctl completion: the shell's script, and the names it completes."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from controller.api.shapes import Calls, Nodes
from controller.cli import options
from controller.cli.session import Session
from controller.errors import PbxctlError

ASK_WITHIN_S = 1.0  # a shell that waits on Tab feels broken


def _session(ctx: click.Context) -> Session:
    return ctx.find_object(Session) or Session()


def node_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of nodes: from the gate, and from the config while that does not answer."""
    session = _session(ctx)
    try:
        seen = session.gate(ASK_WITHIN_S).get(Nodes, "nodes").nodes
        items = [(n.name, f"{n.state} {n.load:.0%}") for n in seen]
    except PbxctlError:
        try:
            items = [(name, "") for name in session.config().nodes]
        except PbxctlError:
            return []
    return [CompletionItem(n, help=text) for n, text in items if n.startswith(incomplete)]


def call_keys(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of live calls."""
    try:
        seen = _session(ctx).gate(ASK_WITHIN_S).get(Calls, "calls", limit="200").calls
    except PbxctlError:
        return []
    return [CompletionItem(c.key, help=c.node) for c in seen if c.key.startswith(incomplete)]


@options.examples("pbxctl completion bash > /etc/bash_completion.d/pbxctl")
@click.command()
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    root = ctx.find_root()
    if kind is None:
        raise click.UsageError(f"{shell} is not supported", ctx)
    click.echo(kind(root.command, {}, "pbxctl", "_PBXCTL_COMPLETE").source())
