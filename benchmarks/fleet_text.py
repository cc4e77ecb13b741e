"""The text of fleet.py's edges: what the domains are, and how a shuffle deals them."""

import ast
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from services.trainer.corpora.document import documents
from services.trainer.corpora.duplicates import deduplicate
from services.trainer.corpora.extract import Parent
from services.trainer.corpora.extract import cut as passages_of
from services.trainer.corpora.split import split

DATA, FULL = Path("data"), Path(".qig/corpora/full")
ROUND_BYTES = 24_000
DOCSTRING_MIN_CHARS = 200


def corpus(name, *, quick=False):
    """The split documents of a domain."""
    if name == "scripture":
        return split(documents("unseen/scripture", root=DATA if quick or not FULL.is_dir() else FULL))
    packages = {"docstrings": ("stdlib", "numpy", "scipy"), "torch": ("torch",)}[name]
    return split(deduplicate(each for package in packages for each in docstrings(package)))


def docstrings(package):
    """Documents of a package's docstrings, a module a parent; nothing is imported."""
    installed = sysconfig.get_path("stdlib") if package == "stdlib" else Path(find_spec(package).origin).parent
    root = Path(installed)
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(inside.parts):
            units = tuple(each for each in told(path) if len(each) > DOCSTRING_MIN_CHARS)
            if units:
                yield from passages_of(Parent(inside.as_posix(), units, "\n\n"), package, "docstrings")


def told(path):
    """The docstrings of a file, cleaned of their margin."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def deal(found, seed, edges, rounds, *, apart=False, round_bytes=ROUND_BYTES):
    """[round][edge]: passages of round_bytes and a little more. apart: each edge has one stretch of the corpus."""
    rng = np.random.default_rng(seed)
    order = np.arange(len(found.train)) if apart else rng.permutation(len(found.train))
    shares = [rng.permutation(each) for each in np.array_split(order, edges)] if apart else [order]
    decks = [iter([found.train[place].text for place in share]) for share in shares]
    return [[_hand(decks[edge % len(decks)], round_bytes) for edge in range(edges)] for _ in range(rounds)]


def _hand(deck, size_bytes):
    taken = []
    while sum(len(each.encode()) for each in taken) < size_bytes:
        taken.append(next(deck))
    return taken
