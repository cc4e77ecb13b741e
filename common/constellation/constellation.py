"""A constellation: a coordizer, four states, memories and domains, bound together so that text goes in and an answer
comes out.

It is a value: a new bundle makes a new one, and an edge swaps a reference. It knows no file, no broker and no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import ROLES, Role
from common.constellation.domains import Domain
from common.constellation.integrator import Integrator
from common.constellation.together import hear, hold
from common.coordizer.artifacts import EOS, Coordizer
from common.coordizer.encode import Encoder
from common.coordizer.place import Bearings, bearings, text_basin
from common.errors import Rejected
from common.geometry.routing import Route, Router
from common.kernels.decode import Array
from common.kernels.engine import State
from common.kernels.generate import Speech, Voice
from common.kernels.kernel import Kernel, Listening, Reading, listen, read
from common.kernels.memory import Ids, Memory

Floats = npt.NDArray[np.float64]

MARGIN_MIN_RAD: Final = 0.04  # chosen: under it the two nearest domains speak together (docs/experiments.md)


@dataclass(frozen=True, slots=True)
class Constellation:
    """coordizer: the prefix that all states speak; encoder: its. states and homes: by role, the decoder and the Fréchet
    mean of its own basins over its domain (64,). integrator: HEART's, of the four states' basins. domains: at least
    the roles.
    """

    coordizer: Coordizer
    encoder: Encoder
    states: Mapping[Role, State]
    homes: Mapping[Role, Floats]
    integrator: Integrator
    memories: Mapping[str, Memory]
    domains: Mapping[str, Domain]
    _bearings: Bearings = field(init=False, repr=False)
    _router: Router = field(init=False, repr=False)
    _kernels: Mapping[str, Kernel] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        missing = sorted(set(ROLES) - set(self.domains) | set(ROLES) - set(self.states) | set(ROLES) - set(self.homes))
        if missing:
            raise Rejected(
                "bad_constellation", f"no kernel for {', '.join(missing)}: a constellation has all four roles"
            )
        for domain in self.domains.values():
            unknown = sorted(set(domain.memories) - set(self.memories))
            if unknown:
                raise Rejected(
                    "bad_constellation", f"domain {domain.name} names memories that are not there: {', '.join(unknown)}"
                )
        homes = {name: domain.basin_array for name, domain in self.domains.items()}
        object.__setattr__(self, "_kernels", {name: self._bound(domain) for name, domain in self.domains.items()})
        object.__setattr__(self, "_bearings", bearings(self.coordizer.basins))
        object.__setattr__(self, "_router", Router(homes, margin_min_rad=MARGIN_MIN_RAD))

    def kernel(self, domain: str) -> Kernel:
        """The kernel that speaks in a domain."""
        return self._kernels[domain]

    def _bound(self, domain: Domain) -> Kernel:
        own = tuple(self.memories[name] for name in domain.memories)
        return Kernel(self.states[domain.role], own, domain.gate_array)

    def basin(self, ids: Ids) -> Floats:
        """Where a text lies, (64,): the mean of its tokens' basins, weighted by salience, under the chord.

        Raises Rejected("no_tokens").
        """
        return text_basin(ids, self._bearings)

    def route(self, basin: Floats) -> Route:
        """Domains by Fisher-Rao distance of their basins from this one, nearest first, with weights.

        Abstained when the two nearest are less than MARGIN_MIN_RAD apart.
        """
        return self._router.route(basin)

    def read(self, ids: Ids, domain: str) -> Reading:
        """A text as a domain's kernel reads it."""
        return read(self.kernel(domain), ids)

    def listen(self, ids: Ids, domain: str) -> tuple[Reading, Listening | None]:
        """`read`, and the state with the text in it, for `speak` to go on from: see `kernel.listen`."""
        return listen(self.kernel(domain), ids)

    def bits(self, ids: Ids, domain: str) -> float:
        """Code length of a text in bits under a domain's kernel."""
        return float(self.read(ids, domain).bits(self.domains[domain].gate_array).sum())

    def speak(
        self,
        prompt: Ids,
        shares: Mapping[str, float],
        *,
        max_tokens: int,
        temperature: float,
        rng: np.random.Generator,
        top_p: float = 1.0,
        listening: Listening | None = None,
    ) -> Speech:
        """Generates from the domains named, fused by their shares (which sum to one); the first leads, and is measured
        and steered. listening: the first's state, if it has read the prompt; it is used up.
        """
        voices = [Voice(self.kernel(d), self.homes[self.domains[d].role], share) for d, share in shares.items()]
        return Speech(
            voices,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            stop=frozenset((EOS,)),
            rng=rng,
            top_p=top_p,
            listening=listening,
        )

    def hold(self, shares: Mapping[str, float], basins: Array) -> Floats:
        """What all four states held together after each token of `speak` by these shares, whose basins are (N, 4, 64):
        the constellation's, (N, 64). Raises Rejected("bad_constellation") unless each role has exactly one domain.
        """
        roles = [self.domains[domain].role for domain in shares]
        if sorted(roles) != sorted(ROLES):
            raise Rejected(
                "bad_constellation", f"domains {', '.join(shares)} speak together: there must be one of each role"
            )
        return hold(self.integrator, basins, [roles.index(role) for role in ROLES])

    def hear(self, ids: Ids) -> Floats:
        """A text as all four states hold it together: the constellation's basins, (N, 64)."""
        return hear(self.states, self.integrator, ids)
