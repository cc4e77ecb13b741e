"""`qig`: every command with its options, and nothing else. The work is in the module of the command's name.

    command.py   what the declarations share                 keys.py    keys, API keys
    traffic.py   packets, batches, bundles, dead letters     text.py    corpora and coordizers
    ending.py    how a command ends: errors, exit codes, an output that cannot be written

A command's module is imported when the command runs, and never for help: numpy, numba, torch and FastStream together
take seconds, `qig --help` takes a fifth of one. Each has a function `run` whose parameters are the command's.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer

    from common.constants import Role
    from services.cli.app import command, ending, keys, text, traffic
    from services.cli.app.command import DEFAULT_HOME, Data, Genesis, Home, Json, Node
except KeyboardInterrupt:  # Ctrl-C before there is a `main` to say so: no traceback through whoever is imported
    sys.exit(130)

app = typer.Typer(
    name="qig",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fleets of small language models that learn from each other by signed 4 KB packets.",
    epilog="First steps: `qig demo`, or `qig up` here and `qig ask` in another terminal. Exit codes: docs/cli.md.",
)
app.add_typer(traffic.packet, name="packet")
app.add_typer(traffic.batch, name="batch")
app.add_typer(traffic.bundle, name="bundle")
app.add_typer(traffic.dead, name="dead")
app.add_typer(keys.keys, name="keys")
app.add_typer(text.corpus, name="corpus")
app.add_typer(text.coordizer, name="coordizer")


@app.callback()
def qig(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,  # noqa: ARG001
    home: Annotated[
        Path | None, typer.Option(help="As after the command, where it stands too: for those that have one.")
    ] = None,
) -> None:
    """What stands before the command; `main` looks for --debug itself."""
    if home is not None:
        os.environ[command.HOME_VARIABLE] = str(home)  # a command's own options are read after this


@app.command()
def demo(home: Home = Path(".qig/demo"), as_json: Json = False) -> None:
    """Show the whole story: start, answer, learn unseen text, apply the new bundle. Half a minute where nothing else
    runs and the kernels are compiled (`qig warm`), else some minutes.
    """
    command.do("demo", home=home, json=as_json)


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
    command.do("up", edges=edges, home=home, port=port)


@app.command()
def stop(home: Home = DEFAULT_HOME) -> None:
    """Stop the constellation that `qig up` (or `qig demo`) runs on this home, in good order."""
    command.do("stop", home=home)


@app.command()
def ask(  # noqa: PLR0913, PLR0917 -- typer makes each option of a parameter
    text: Annotated[list[str], typer.Argument(help="The question, in one word or several; - reads standard input.")],
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
    fields = {"text": " ".join(text), "mode": mode, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    command.do("ask", fields=fields | {"store": store}, timeout_s=timeout, home=home, json=as_json)


@app.command()
def read(
    files: Annotated[list[Path], typer.Argument(help="Files of UTF-8 text; - reads standard input.")],
    store: Annotated[bool, typer.Option("--store/--no-store", help="Whether the fleet may learn from it.")] = True,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds to wait for each piece.")] = 600.0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Give the edges texts to learn from, in pieces; show how well they know them, in bits per byte."""
    command.do("read", files=files, store=store, timeout_s=timeout, home=home, json=as_json)


@app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="Show it once and end; so without a terminal.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between two looks.")] = 1.0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Watch services, phases, and what waits in each stream."""
    command.do("watch", once=once, every_s=every, home=home, json=as_json)


@app.command()
def top(
    every: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds between two looks.")] = 1.0,
    home: Home = DEFAULT_HOME,
) -> None:
    """The fleet at a glance: kernels over time, services, streams, bundles. Needs the extra `top`.

    A phase says how firmly a kernel holds its direction, by κ: FOAM below 20, TACKING below 50, CRYSTAL to 70, FRACTURE
    above that or where Φ is above 0.85 (it is loosened again). A domain d-... was opened by the fleet for texts far
    from all others. docs/theory.md says how both are measured.
    """
    command.do("top", every_s=every, home=home)


@app.command()
def nodes(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """List the edges: what became of their packets, when each was seen, what it serves and said of it."""
    command.do("nodes", home=home, json=as_json)


@app.command()
def trace(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A query's id, a packet's (NODE:SEQUENCE, KEY:EPOCH:SEQUENCE), a bundle's version, or the beginning of"
            " a batch's or a candidate's id.",
        ),
    ],
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show what came of a query, a packet, a batch or a bundle: each step with the trace that it is in."""
    command.do("trace", name=name, home=home, json=as_json)


@app.command()
def route(
    text: Annotated[list[str], typer.Argument(help="The text, in one word or several; - reads standard input.")],
    genesis: Genesis = None,
    coordizer: Annotated[
        Path | None, typer.Option(help="Directory of a coordizer: the four roles' text in --data gives the homes.")
    ] = None,
    data: Data = Path("data"),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show where a text lies: distance to every domain, margin, share of each faculty."""
    said = " ".join(text)
    command.do("route", text=said, genesis=genesis, home=home, coordizer=coordizer, data=data, json=as_json)


@app.command()
def train(  # noqa: PLR0913, PLR0917 -- typer makes each option of a parameter
    size: Annotated[
        str | None,
        typer.Option(help="The kernels' size: tiny (when not given), small, base. A batch has its own."),
    ] = None,
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
    if batch is not None and size is not None:
        raise typer.BadParameter("a batch goes on with kernels of its parent's size: leave --size out")
    if batch is not None:
        given = {"batch": batch, "parent": parent, "steps": steps, "json": as_json}
        command.do("train", "consolidate", out=out or home / "candidate", data=data, seed=seed, **given)
    else:
        out = out or home / "genesis"
        command.do("train", size=size or "tiny", seed=seed, out=out, data=data, coordizer=coordizer, workers=workers)


@app.command()
def validate(
    genesis: Genesis = None,
    data: Data = Path("data"),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Measure the gates on held-out text, with their controls; ends with 1 when one fails."""
    command.do("validate", genesis=genesis, home=home, data=data, json=as_json)


@app.command()
def warm(
    genesis: Annotated[Path, typer.Argument(help="Directory of a constellation.")] = Path("data/genesis"),
) -> None:
    """Compile now what an edge runs, so that its first start takes seconds."""
    command.do("warm", genesis=genesis)


@app.command()
def doctor(
    home: Home = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=1, max=65_000, help="First of the ports `qig up` would use.")] = 8000,
    as_json: Json = False,
) -> None:
    """Check this machine, the settings and the broker; each failure comes with what to do."""
    command.do("doctor", home=home, port=port, json=as_json)


@app.command()
def health(
    port: Annotated[
        int, typer.Option(min=1, max=65_535, envvar="QIG_HTTP_PORT", help="Where the service shows itself.")
    ] = 8000,
) -> None:
    """Say whether the service on a port of this machine is ready, and what keeps it from it; ends with 1 when it is
    not.
    """
    command.do("health", port=port)


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
    command.do("forget", query_id=query_id, client=client, node=node, home=home, json=as_json, key_file=key_file)


def main() -> None:
    """The entry of the console script."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: a second BLAS thread on a busy machine costs 30 times
    ending.run(app)
