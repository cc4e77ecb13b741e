"""What was mentioned by keyed hash, and what was told to be common: each step one transaction."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from common.wire.mentions import Hashes
from services.edge.record.file import File
from services.edge.record.schema import meta, set_meta

COMMON_MAX: Final = 1 << 15  # as many as the centre keeps of the fleet


class Mentions:
    """The hashes of an open file."""

    def __init__(self, file: File) -> None:
        self._file: Final = file

    def mentioned(self) -> Hashes:
        """What was mentioned and is not common, ascending."""
        return _hashes(self._file.all("SELECT hash FROM mentions ORDER BY hash"))

    def common(self) -> Hashes:
        """What was told to be common, ascending."""
        return _hashes(self._file.all("SELECT hash FROM common ORDER BY hash"))

    def heard(self, hashes: Hashes, acknowledged: Iterable[int], *, cursor: str, at_s: float) -> None:
        """A message about what is common was dealt with: hashes kept (the newest COMMON_MAX), packets settled.

        cursor: its entry id, from which the next start reads on.
        """
        with self._file.write() as db:
            told = int(meta(db, "told") or 0) + 1
            rows = hashes.tolist()
            db.executemany("INSERT OR REPLACE INTO common VALUES (?, ?)", [(each, told) for each in rows])
            db.executemany("DELETE FROM mentions WHERE hash = ?", [(each,) for each in rows])
            db.execute(
                "DELETE FROM common WHERE told <= (SELECT told FROM common ORDER BY told DESC LIMIT 1 OFFSET ?)",
                (COMMON_MAX,),
            )
            db.executemany(
                "UPDATE packets SET status = 'acknowledged', at_s = ? WHERE sequence = ?",
                [(at_s, sequence) for sequence in acknowledged],
            )
            set_meta(db, "told", str(told))
            set_meta(db, "common_cursor", cursor)

    @property
    def common_cursor(self) -> str | None:
        """The entry id of the last message about what is common that was dealt with."""
        return self._file.meta("common_cursor")


def _hashes(rows: Sequence[tuple[int]]) -> Hashes:
    return np.array([each for (each,) in rows], np.uint32)
