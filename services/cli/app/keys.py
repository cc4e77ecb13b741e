"""Commands about keys: those that sign, those of the HTTP API, and the broker's passwords."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.app import command
from services.cli.app.command import DEFAULT_HOME, Home, Json

keys = typer.Typer(no_args_is_help=True, help="The keys of packets and bundles, of the HTTP API, and of the broker.")
api = typer.Typer(no_args_is_help=True, help="Who may use the edges' HTTP API.")
keys.add_typer(api, name="api")


@keys.command("init")
def keys_init(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the edges; edge-1, edge-2, ... when none.")
    ] = None,
    edges: Annotated[int, typer.Option(min=1, max=10_000, help="How many edges, when no names are given.")] = 2,
    home: Home = DEFAULT_HOME,
) -> None:
    """Make the keys that are missing, for bundles and the edges; never replaces one, never shows a secret."""
    command.do("keyring", names=names or [f"edge-{number}" for number in range(1, edges + 1)], home=home)


@keys.command("secret")
def keys_secret(home: Home = DEFAULT_HOME) -> None:
    """Make the secret that the edges of a fleet share in private mode; never replaces one, never shows it."""
    command.do("keyring", "secret", home=home)


@keys.command("broker")
def keys_broker(
    clients: Annotated[
        list[str] | None, typer.Option("--client", help="A client that shall have a user of its own; also repeated.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--at", help="Where the broker is, redis://HOST:PORT; redis://127.0.0.1:6379 at first."),
    ] = None,
    rotate: Annotated[
        str | None, typer.Option(help="Give this user a new password; the old one counts until --retire.")
    ] = None,
    retire: Annotated[str | None, typer.Option(help="The old password of this user counts no more.")] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Nothing but this: the running broker reads its users again.")
    ] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Make the broker's users that are missing, with their passwords and the list that the broker reads; shows none."""
    command.do("users", clients=clients or [], address=address, rotate=rotate, retire=retire, load=load, home=home)


TrustNames = Annotated[list[str], typer.Argument(help="root-1, root-2, root-3, targets, publisher.")]
Offline = Annotated[Path | None, typer.Option(help="Directory of the offline keys; HOME/offline when not given.")]


@keys.command("rotate")
def keys_rotate(names: TrustNames, offline: Offline = None, home: Home = DEFAULT_HOME) -> None:
    """Replace keys that bundles hang on; two of the root keys sign for it. Edges follow by themselves."""
    command.do("keyring", "rotate", names=names, home=home, offline=offline)


@keys.command("revoke")
def keys_revoke(
    names: TrustNames,
    last_good: Annotated[
        str | None,
        typer.Option(help="With the publisher's key: digest of the last bundle you believe; later ones count no more."),
    ] = None,
    offline: Offline = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Replace keys that were stolen or lost: as rotate, and what they signed counts no more."""
    command.do("keyring", "revoke", names=names, home=home, offline=offline, last_good=last_good)


KeyName = Annotated[str, typer.Argument(help="Whose key: letters, digits and . _ -")]
ApiKeys = Annotated[
    Path | None,
    typer.Option("--file", envvar="QIG_API_KEYS", help="The file of keys; HOME/trust/api-keys.json when not given."),
]


@api.command("add")
def api_add(name: KeyName, file: ApiKeys = None, home: Home = DEFAULT_HOME) -> None:
    """Make a key and show it, once; only its hash is kept."""
    command.do("api_keys", "add", name=name, file=file, home=home)


@api.command("list")
def api_list(file: ApiKeys = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List who has a key."""
    command.do("api_keys", "show", file=file, home=home, json=as_json)


@api.command("revoke")
def api_revoke(name: KeyName, file: ApiKeys = None, home: Home = DEFAULT_HOME) -> None:
    """End a key, at once and for every edge that reads the file."""
    command.do("api_keys", "revoke", name=name, file=file, home=home)
