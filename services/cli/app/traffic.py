"""Commands about what goes over the wire: packets, batches, bundles, dead letters."""

from pathlib import Path
from typing import Annotated, Final

import typer

from services.cli.app import command
from services.cli.app.command import DEFAULT_HOME, Genesis, Home, Json, Node

dead = typer.Typer(no_args_is_help=True, help="Messages that could not be handled, with the reason.")
batch = typer.Typer(no_args_is_help=True, help="Packets merged, that wait for a trainer.")
bundle = typer.Typer(no_args_is_help=True, help="What the publisher has released.")
packet = typer.Typer(no_args_is_help=True, help="What leaves an edge: sleep packets, readable.")


@packet.command("list")
def packet_list(node: Node = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the packets of the edges of this home: what left, and what waits to leave."""
    command.do("packet", "listing", node=node, home=home, json=as_json)


@packet.command("show")
def packet_show(
    packet: Annotated[str, typer.Argument(help="A packet's sequence, or a file with one.")],
    node: Node = None,
    genesis: Genesis = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show all that a packet says: its figures, its size by section, and every n-gram as text with its count."""
    command.do("packet", "show", packet=packet, node=node, genesis=genesis, home=home, json=as_json)


@packet.command("disown")
def packet_disown(
    node: Annotated[str, typer.Argument(help="The node, as `qig nodes` names it.")], home: Home = DEFAULT_HOME
) -> None:
    """Enrol a node no more, and take what its packets brought out of the fleet's memories; on the centre's home."""
    command.do("disown", node=node, home=home)


@batch.command("list")
def batch_list(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the batches that wait for a trainer, and the dead ones."""
    command.do("batch", "show", home=home, json=as_json)


@batch.command("save")
def batch_save(
    out: Annotated[Path, typer.Option(help="Directory for the batch and the constellation that it is for.")],
    batch: Annotated[str | None, typer.Argument(help="The beginning of its id; the oldest when not given.")] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Write a batch as files that `qig train --batch` takes: the message, and the parts of the newest release."""
    command.do("batch", "save", batch=batch, out=out, home=home)


@bundle.command("list")
def bundle_list(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the releases: when, to whom, what each changed most, and on which edges it serves or that it was taken
    back.
    """
    command.do("releases", home=home, json=as_json)


@bundle.command("revoke")
def bundle_revoke(
    to: Annotated[
        int | None, typer.Option(min=1, help="The version to go back to; the one before the current when not given.")
    ] = None,
    above: Annotated[
        int,
        typer.Option(min=0, help="The highest version on any edge, once an older copy of the broker was restored."),
    ] = 0,
    home: Home = DEFAULT_HOME,
) -> None:
    """Release an older bundle's parts again, as a new version, because a newer is bad. Needs the publisher's key."""
    command.do("bundle", "revoke", to=to, above=above, home=home)


@bundle.command("why")
def bundle_why(
    name: Annotated[
        str | None, typer.Argument(help="A version, or a candidate's id or its beginning; the newest when not given.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show why a candidate was refused or taken back; of a release its figures, and what edges said of it."""
    command.do("why", name=name, home=home, json=as_json)


_STREAM: Final = "queries, packets, batches or candidates."
Stream = Annotated[str | None, typer.Option(help=_STREAM)]


@dead.command("list")
def dead_list(stream: Stream = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List dead letters, of one stream or of all."""
    command.do("dead", "show", stream=stream, home=home, json=as_json)


@dead.command("replay")
def dead_replay(
    stream: Annotated[str, typer.Option(help=_STREAM)],
    letter: Annotated[str | None, typer.Argument(help="The letter's id, as `qig dead list` shows it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter of the stream.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Publish a dead letter's message again and remove the letter, in one step."""
    command.do("dead", "replay", stream=stream, letter=letter, everything=everything, home=home)
