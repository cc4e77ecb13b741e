"""Commands about text before any kernel: the corpora, and the coordizer that is made of them."""

from pathlib import Path
from typing import Annotated, Final

import typer

from services.cli.app import command
from services.cli.app.command import Json

corpus = typer.Typer(no_args_is_help=True, help="The text that kernels learn from.")
coordizer = typer.Typer(no_args_is_help=True, help="The tokenizer whose tokens have places among the 64 cells.")
Cache = Annotated[Path, typer.Option(help="Directory of the downloaded archives.")]
DEFAULT_CACHE: Final = Path(".qig/corpora")


@corpus.command("fetch")
def corpus_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Sources of the lock file; all when none.")] = None,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """Download the pinned archives, checked by digest; nothing in them is run."""
    command.do("corpus", "fetch", names=names or [], cache=cache)


@corpus.command("seed")
def corpus_seed(
    cache: Cache = DEFAULT_CACHE, out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("data")
) -> None:
    """Build the small slice of data/ from the archives; the same bytes every time."""
    command.do("corpus", "seed", cache=cache, out=out)


@corpus.command("full")
def corpus_full(
    cache: Cache = DEFAULT_CACHE,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path(".qig/corpora/full"),
) -> None:
    """Build the full corpora from the archives."""
    command.do("corpus", "full", cache=cache, out=out)


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
    command.do("coordizer", "train", corpora=corpora, out=out, **given)


@coordizer.command("export")
def coordizer_export(
    out: Annotated[Path, typer.Option(help="Directory for the files.")],
    folder: Folder = SHIPPED,
    vocab_size: Annotated[int | None, typer.Option(min=259, max=32768, help="Only the first ids.")] = None,
) -> None:
    """Write Hugging Face's tokenizer.json, tiktoken's ranks, and the plot of Φ."""
    command.do("coordizer", "export", folder=folder, out=out, vocab_size=vocab_size)


@coordizer.command("show")
def coordizer_show(folder: Folder = SHIPPED, as_json: Json = False) -> None:
    """Check an artifact and show what it is, where it comes from, and Φ of its token stream."""
    command.do("coordizer", "show", folder=folder, json=as_json)
