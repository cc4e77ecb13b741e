"""`qig`: every command with its options, and nothing else. The work is in the module of the command's name.

A command's module is imported when the command runs, and never for help: numpy, numba, torch and FastStream together
take seconds, `qig --help` takes a fifth of one. Each has a function `run` whose parameters are the command's.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from common.constants import Role
from common.errors import Corrupt, QigError, Rejected

EXIT_FAILED: Final = 1  # a check or a gate failed: the command did its work, and the news is bad
EXIT_USAGE: Final = 2  # an argument, a setting or some data is wrong
EXIT_UNAVAILABLE: Final = 3  # something is not there: a broker, a port, a file, room on the disk
EXIT_BUG: Final = 4
EXIT_CORRUPT: Final = 70
EXIT_INTERRUPTED: Final = 130
EXIT_CODES: Final[dict[int, str]] = {
    0: "done",
    EXIT_FAILED: "a check or a gate failed; the output says which",
    EXIT_USAGE: "an argument, a setting or some data is wrong",
    EXIT_UNAVAILABLE: "something is not there (a broker, a port, a file, room on the disk); it may be later",
    EXIT_BUG: "a bug: `qig --debug ...` shows the traceback",
    EXIT_CORRUPT: "bytes are not what their digest or signature promised",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C)",
}

Home = Annotated[Path, typer.Option(envvar="QIG_HOME", help="Directory for state and keys.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: JSON, one object a line.")]
Data = Annotated[Path, typer.Option(help="Directory of the corpora, one DOMAIN.jsonl.gz each.")]
Genesis = Annotated[
    Path | None, typer.Option(help="Directory of a constellation's parts; HOME/genesis, else what is shipped.")
]
Cache = Annotated[Path, typer.Option(help="Directory of the downloaded archives.")]
Node = Annotated[str | None, typer.Option(help="The edge; every edge of this home when not given.")]
DEFAULT_HOME: Final = Path(".qig")
DEFAULT_CACHE: Final = Path(".qig/corpora")

app = typer.Typer(
    name="qig",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fleets of small language models that learn from each other by signed 4 KB packets.",
    epilog="First steps: `qig demo`, or `qig up` here and `qig ask` in another terminal. Exit codes: docs/cli.md.",
)
dead = typer.Typer(no_args_is_help=True, help="Messages that could not be handled, with the reason.")
keys = typer.Typer(no_args_is_help=True, help="The keys that sign packets and bundles, and those of the HTTP API.")
api = typer.Typer(no_args_is_help=True, help="Who may use the edges' HTTP API.")
corpus = typer.Typer(no_args_is_help=True, help="The text that kernels learn from.")
bundle = typer.Typer(no_args_is_help=True, help="What the publisher has released.")
batch = typer.Typer(no_args_is_help=True, help="Packets merged, that wait for a trainer.")
packet = typer.Typer(no_args_is_help=True, help="What leaves an edge: sleep packets, readable.")
app.add_typer(packet, name="packet")
app.add_typer(batch, name="batch")
app.add_typer(bundle, name="bundle")
app.add_typer(dead, name="dead")
app.add_typer(keys, name="keys")
keys.add_typer(api, name="api")
coordizer = typer.Typer(no_args_is_help=True, help="The tokenizer whose tokens have places among the 64 cells.")
app.add_typer(corpus, name="corpus")
app.add_typer(coordizer, name="coordizer")


@app.callback()
def qig(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """What stands before the command; `main` looks for --debug itself."""


@app.command()
def demo(home: Home = Path(".qig/demo"), as_json: Json = False) -> None:
    """Show the whole story in under three minutes: start, answer, learn unseen text, apply the new bundle."""
    _do("demo", home=home, json=as_json)


@app.command()
def up(
    edges: Annotated[int, typer.Option(min=1, max=64, help="Edge nodes to run.")] = 2,
    home: Home = DEFAULT_HOME,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65_000, help="First of the ports used, one a process; 0 picks free ones, the broker's too."
        ),
    ] = 8000,
) -> None:
    """Run a constellation on this machine until Ctrl-C; starts a broker when QIG_BROKER_URL names none."""
    _do("up", edges=edges, home=home, port=port)


@app.command()
def ask(  # noqa: PLR0913, PLR0917 -- typer makes each option of a parameter
    text: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    mode: Annotated[
        Literal["routed", "constellation", Role],
        typer.Option(help="routed, constellation, or a role: vocab, strategy, percept, heart."),
    ] = "routed",
    max_tokens: Annotated[
        int, typer.Option(min=0, max=1024, help="0 reads and scores the text, and answers nothing.")
    ] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")] = 0.8,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")] = None,
    store: Annotated[bool, typer.Option("--store/--no-store", help="Whether the fleet may learn from it.")] = True,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds to wait for the answer.")] = 60.0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Ask the fleet; show the answer as it is made, its route, Φ, κ and phase. Ctrl-C cancels it."""
    fields = {"text": text, "mode": mode, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    _do("ask", fields=fields | {"store": store}, timeout_s=timeout, home=home, json=as_json)


@app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="Show it once and end; so without a terminal.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Watch services, phases, and what waits in each stream."""
    _do("watch", once=once, every_s=every, home=home, json=as_json)


@app.command()
def top(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    home: Home = DEFAULT_HOME,
) -> None:
    """The fleet at a glance: kernels over time, services, streams, bundles. Needs the extra `top`."""
    _do("top", every_s=every, home=home)


@app.command()
def route(
    text: Annotated[str, typer.Argument(help="The text; - reads it from standard input.")],
    genesis: Genesis = None,
    coordizer: Annotated[
        Path | None, typer.Option(help="Directory of a coordizer: the four roles' text in --data gives the homes.")
    ] = None,
    data: Data = Path("data"),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show where a text lies: distance to every domain, margin, share of each faculty."""
    _do("route", text=text, genesis=genesis, home=home, coordizer=coordizer, data=data, json=as_json)


@app.command()
def train(  # noqa: PLR0913, PLR0917 -- typer makes each option of a parameter
    size: Annotated[str, typer.Option(help="The kernels' size: tiny, small, base.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the parts; HOME/genesis or HOME/candidate when not given.")
    ] = None,
    data: Data = Path("data"),
    coordizer: Annotated[
        Path | None, typer.Option(help="Directory of a coordizer whose first ids to use; else one is trained.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Processes for the four branches.")] = 2,
    batch: Annotated[
        Path | None,
        typer.Option(help="A batch (`qig batch save`): make of it the candidate that a trainer makes, and show it."),
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="With --batch: what it is trained on; `parent` beside it when not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="With --batch: training steps; as a trainer takes when not given.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Train the first constellation from text alone, or the next one from a batch; go on with what was killed. Needs
    torch.
    """
    if batch is not None:
        given = {"batch": batch, "parent": parent, "steps": steps, "json": as_json}
        _do("train", "consolidate", out=out or home / "candidate", data=data, seed=seed, **given)
    else:
        out = out or home / "genesis"
        _do("train", size=size, seed=seed, out=out, data=data, coordizer=coordizer, workers=workers)


@app.command()
def validate(
    genesis: Genesis = None,
    data: Data = Path("data"),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Measure the gates on held-out text, with their controls; ends with 1 when one fails."""
    _do("validate", genesis=genesis, home=home, data=data, json=as_json)


@app.command()
def warm(
    genesis: Annotated[Path, typer.Argument(help="Directory of a constellation.")] = Path("data/genesis"),
) -> None:
    """Compile now what an edge runs, so that its first start takes seconds."""
    _do("warm", genesis=genesis)


@app.command()
def doctor(
    home: Home = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65_000, help="First of the ports `qig up` would use.")] = 8000,
    as_json: Json = False,
) -> None:
    """Check this machine, the settings and the broker; each failure comes with what to do."""
    _do("doctor", home=home, port=port, json=as_json)


@app.command()
def forget(
    query_id: Annotated[str, typer.Argument(help="The query's id, as its answer names it; `qig ask` shows it last.")],
    client: Annotated[str | None, typer.Option(help="Who asked; needed when several clients used that id.")] = None,
    node: Node = None,
    key_file: Annotated[
        Path | None, typer.Option(help="A file with the client's API key, where a running edge wants one.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Delete a query's text and answer from the edges of this home, with what they taught; say what had left."""
    _do("forget", query_id=query_id, client=client, node=node, home=home, json=as_json, key_file=key_file)


@packet.command("list")
def packet_list(node: Node = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the packets of the edges of this home: what left, and what waits to leave."""
    _do("packet", "listing", node=node, home=home, json=as_json)


@packet.command("show")
def packet_show(
    packet: Annotated[str, typer.Argument(help="A packet's sequence, or a file with one.")],
    node: Node = None,
    genesis: Genesis = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show all that a packet says: its figures, its size by section, and every n-gram as text with its count."""
    _do("packet", "show", packet=packet, node=node, genesis=genesis, home=home, json=as_json)


@batch.command("list")
def batch_list(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the batches that wait for a trainer, and the dead ones."""
    _do("batch", "show", home=home, json=as_json)


@batch.command("save")
def batch_save(
    out: Annotated[Path, typer.Option(help="Directory for the batch and the constellation that it is for.")],
    batch: Annotated[str | None, typer.Argument(help="The beginning of its id; the oldest when not given.")] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Write a batch as files that `qig train --batch` takes: the message, and the parts of the newest release."""
    _do("batch", "save", batch=batch, out=out, home=home)


@bundle.command("revoke")
def bundle_revoke(
    to: Annotated[
        int | None, typer.Option(min=1, help="The version to go back to; the one before the current when not given.")
    ] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Release an older bundle's parts again, as a new version, because a newer is bad. Needs the publisher's key."""
    _do("bundle", "revoke", to=to, home=home)


_STREAM: Final = "queries, packets, batches or candidates."
Stream = Annotated[str | None, typer.Option(help=_STREAM)]


@dead.command("list")
def dead_list(stream: Stream = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List dead letters, of one stream or of all."""
    _do("dead", "show", stream=stream, home=home, json=as_json)


@dead.command("replay")
def dead_replay(
    stream: Annotated[str, typer.Option(help=_STREAM)],
    letter: Annotated[str | None, typer.Argument(help="The letter's id, as `qig dead list` shows it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter of the stream.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Publish a dead letter's message again and remove the letter, in one step."""
    _do("dead", "replay", stream=stream, letter=letter, everything=everything, home=home)


@keys.command("init")
def keys_init(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the edges; edge-1, edge-2, ... when none.")
    ] = None,
    edges: Annotated[int, typer.Option(min=1, max=10_000, help="How many edges, when no names are given.")] = 2,
    home: Home = DEFAULT_HOME,
) -> None:
    """Make the keys that are missing, for bundles and the edges; never replaces one, never shows a secret."""
    _do("keyring", names=names or [f"edge-{number}" for number in range(1, edges + 1)], home=home)


@keys.command("secret")
def keys_secret(home: Home = DEFAULT_HOME) -> None:
    """Make the secret that the edges of a fleet share in private mode; never replaces one, never shows it."""
    _do("keyring", "secret", home=home)


TrustNames = Annotated[list[str], typer.Argument(help="root-1, root-2, root-3, targets, publisher.")]
Offline = Annotated[Path | None, typer.Option(help="Directory of the offline keys; HOME/offline when not given.")]


@keys.command("rotate")
def keys_rotate(names: TrustNames, offline: Offline = None, home: Home = DEFAULT_HOME) -> None:
    """Replace keys that bundles hang on; two of the root keys sign for it. Edges follow by themselves."""
    _do("keyring", "rotate", names=names, home=home, offline=offline)


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
    _do("keyring", "revoke", names=names, home=home, offline=offline, last_good=last_good)


KeyName = Annotated[str, typer.Argument(help="Whose key: letters, digits and . _ -")]
ApiKeys = Annotated[
    Path | None,
    typer.Option("--file", envvar="QIG_API_KEYS", help="The file of keys; HOME/trust/api-keys.json when not given."),
]


@api.command("add")
def api_add(name: KeyName, file: ApiKeys = None, home: Home = DEFAULT_HOME) -> None:
    """Make a key and show it, once; only its hash is kept."""
    _do("api_keys", "add", name=name, file=file, home=home)


@api.command("list")
def api_list(file: ApiKeys = None, home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List who has a key."""
    _do("api_keys", "show", file=file, home=home, json=as_json)


@api.command("revoke")
def api_revoke(name: KeyName, file: ApiKeys = None, home: Home = DEFAULT_HOME) -> None:
    """End a key, at once and for every edge that reads the file."""
    _do("api_keys", "revoke", name=name, file=file, home=home)


@corpus.command("fetch")
def corpus_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Sources of the lock file; all when none.")] = None,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Download the pinned archives, checked by digest; nothing in them is run."""
    _do("corpus", "fetch", names=names or [], cache=cache)


@corpus.command("seed")
def corpus_seed(
    cache: Cache = DEFAULT_CACHE, out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("data")
) -> None:
    """Build the small slice of data/ from the archives; the same bytes every time."""
    _do("corpus", "seed", cache=cache, out=out)


@corpus.command("full")
def corpus_full(
    cache: Cache = DEFAULT_CACHE,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path(".qig/corpora/full"),
) -> None:
    """Build the full corpora from the archives."""
    _do("corpus", "full", cache=cache, out=out)


Folder = Annotated[Path, typer.Argument(help="Directory of a coordizer.")]
SHIPPED: Final = Path("data/coordizer-32k")


@coordizer.command("train")
def coordizer_train(
    corpora: Annotated[Path, typer.Option(help="Directory of the full corpora.")] = Path(".qig/corpora/full"),
    vocab_size: Annotated[int, typer.Option(min=259, max=32768, help="At most so many ids.")] = 32768,
    lam: Annotated[float, typer.Option(min=0.0, help="How much geometry weighs in the score; 0 is plain BPE.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=64, help="The result is the same for any number.")] = 1,
    out: Annotated[Path, typer.Option(help="Directory for the artifact.")] = Path(".qig/coordizer"),
) -> None:
    """Train on a capped share of every source; goes on where a stopped run of the same command left off."""
    given = {"vocab_size": vocab_size, "lam": lam, "seed": seed, "threads": threads}
    _do("coordizer", "train", corpora=corpora, out=out, **given)


@coordizer.command("export")
def coordizer_export(
    out: Annotated[Path, typer.Option(help="Directory for the files.")],
    folder: Folder = SHIPPED,
    vocab_size: Annotated[int | None, typer.Option(min=259, max=32768, help="Only the first ids.")] = None,
) -> None:
    """Write Hugging Face's tokenizer.json, tiktoken's ranks, and the plot of Φ."""
    _do("coordizer", "export", folder=folder, out=out, vocab_size=vocab_size)


@coordizer.command("show")
def coordizer_show(folder: Folder = SHIPPED, as_json: Json = False) -> None:
    """Check an artifact and show what it is, where it comes from, and Φ of its token stream."""
    _do("coordizer", "show", folder=folder, json=as_json)


def main() -> None:
    """The entry of the console script: an error of ours is one line on standard error, and an exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a second BLAS thread on a busy machine costs 30 times
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        sys.stderr.write(f"error: {_line(error)}\n")
        sys.exit(exit_code(error))


def exit_code(error: Exception) -> int:
    """The code that a command which raised `error` ends with."""
    if isinstance(error, Corrupt):
        return EXIT_CORRUPT
    if isinstance(error, Rejected):
        return EXIT_USAGE
    return EXIT_UNAVAILABLE if isinstance(error, QigError) else EXIT_BUG


def _line(error: Exception) -> str:
    if isinstance(error, QigError):
        return f"{error.message} ({error.code})"
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{what} (bug): run it again as `qig --debug ...` and report the traceback"


def _do(module: str, function: str = "run", **given: Any) -> None:
    """Import the command's module, run it, end with its code."""
    work = getattr(import_module(f"services.cli.{module}"), function)
    raise typer.Exit(work(**given))


if __name__ == "__main__":
    main()
