"""What an edge remembers across kills: one SQLite file, one transaction a step.

    interactions   what was asked and answered; `folded` once counted, with the `ids` that were and the `packet` that
                   came of it; `probe` when kept to try bundles on; `verdict` when somebody judged the answer; `taken`
                   is what a rejected text had in the residue
    residue        by domain ('' = new territory), n-gram counts that no bundle has taken yet; `owed`: what bundles took
                   beyond what was seen (balance.py)
    gates          by domain, the gate learned from what was counted, and what it saved
    packets        pending ─▶ sent ─▶ acknowledged, or lost; each with the counts it carries, and the bundle that
                   settled it
    mentions       hashes that were mentioned and are not common, each with the packet that did
    common         hashes that were told to be common, each with the message that told so
    meta           epoch, next sequence, the last entries of bundles, of common and of returned seen, the merges of the
                   vocabulary that all counts are in

texts.py takes the steps of interactions, mentions.py of hashes, record.py those that change counts, packets and gates.
file.py holds the file open and tells what SQLite refuses, schema.py lays it out, rows.py says what comes out of it,
reading.py looks into it from another process.

Write-ahead log and synchronous=FULL: what a method returned from is on the disk. A second process on the same file is
refused by a lock that ends with the process, however it ends. Bounded: interactions by age and size, packets that are
settled by age, hashes by number. What is deleted is overwritten, in the log too (secure_delete, and a checkpoint that
empties the log). A file of an older schema is brought up to this one when it is opened. Knows nothing of what is in a
packet or of how counts are chosen.

The epoch names a life of this file: the second in which it was made. An edge that lost its file starts the next epoch,
so that its sequences never repeat.
"""

from services.edge.record.file import address_of as address_of
from services.edge.record.reading import read_asked as read_asked
from services.edge.record.reading import read_clients as read_clients
from services.edge.record.reading import read_counted as read_counted
from services.edge.record.reading import read_packets as read_packets
from services.edge.record.reading import read_residues as read_residues
from services.edge.record.record import ORDERS as ORDERS
from services.edge.record.record import Record as Record
from services.edge.record.rows import IDS as IDS
from services.edge.record.rows import Asked as Asked
from services.edge.record.rows import Counted as Counted
from services.edge.record.rows import Domain as Domain
from services.edge.record.rows import Fresh as Fresh
from services.edge.record.rows import Kept as Kept
from services.edge.record.rows import Merges as Merges
from services.edge.record.rows import Packet as Packet
from services.edge.record.rows import Settling as Settling
from services.edge.record.rows import Status as Status
from services.edge.record.rows import Verdict as Verdict
from services.edge.record.texts import FOLD_MAX_BYTES as FOLD_MAX_BYTES
