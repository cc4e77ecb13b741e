"""Claims: a small kernel reads held-out documents at 15 % fewer bits per byte than a plain transformer of equal
parameters and processor seconds; the geometric losses cost at most 1 %; training is as fast as a plain transformer's.

    python benchmarks/kernels.py [speed] [plain] [own] [generalist] [ablation] --genesis DIR --data DIR [--size small]

speed       a state beside a plain transformer as torch runs it, and beside the same with the trainer's functions.
plain       a transformer as one would write it: learned embedding tied to the output, rotary scaled dot-product
            attention, squared-ReLU MLP as wide as makes the parameters equal, cross-entropy alone; same optimisers,
            rates and text, and from here on the trainer's own attention and cross-entropy, which are faster than
            torch's. Trained on all domains for the seconds that the genesis spent on its seed, its four branches and
            its memories, measured in this run.
own         four of the same, one a domain, a quarter of the seconds each: as many parameters and as much time in all.
generalist  one state of the genesis's own kind and size trained on all domains for as many steps as the seed and all
            branches had, one memory of all text pruned to the four memories' entries, one gate: what specialists
            must beat.
ablation    seed and branches with cross-entropy alone, next to the same with the geometric losses, each read with its
            memory and its gate.

Held-out documents, near-duplicates of training text removed. One thread, processor seconds.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.coordizer.artifacts import EOS
from common.geometry.simplex import from_float16
from common.kernels import gate, memory
from common.kernels.engine import ROTARY_BASE, State
from common.kernels.kernel import Kernel, read
from services.trainer import folder, guards, loop, losses, prune, recipe, text
from services.trainer.allocator import keep_freed
from services.trainer.corpora.duplicates import NEAR_LIMIT, overlap, shingles
from services.trainer.evaluate import by_reader
from services.trainer.loop import Plan, train
from services.trainer.model import StateModel, attention, coarse, export, has_bfloat16, restore
from services.trainer.speech import cross_entropy

CLAIMS = {
    "speed": "training a state is at least 0.9 times as fast as training a plain transformer of equal parameters",
    "plain": "a kernel reads at least 15 % below a plain transformer of equal parameters and processor seconds",
    "generalist": "specialists read below one generalist of their size and of their compute together",
    "ablation": "the geometric losses cost at most 1 % bits per byte",
}
HELD_OUT_BYTES = 200_000  # of each role
SPEED_STEPS = 22
MIXED = has_bfloat16(torch.device("cpu"))


class Plain(nn.Module):
    """ids (B, T) to logits (B, T, vocab). ours: with the trainer's attention and cross-entropy instead of torch's."""

    def __init__(self, vocab, width, layers, heads, context, parameters, ours):
        super().__init__()
        self.ours = ours
        self.heads, self.context = heads, context
        hidden = round((parameters - vocab * (width + 1) - 4 * layers * width**2) / (2 * layers * width))
        self.embed = nn.Embedding(vocab, width)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(vocab))
        shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
        self.blocks = nn.ParameterList(
            nn.Parameter((torch.rand(shape) * 2 - 1) * shape[1] ** -0.5 * (place % 4 not in (1, 3)))
            for place, shape in enumerate(shapes * layers)
        )
        half = width // heads // 2
        angle = torch.arange(context)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, following):
        """The mean cross-entropy of the tokens that follow."""
        if not self.ours:
            with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
                logits = self.logits(ids)
            return functional.cross_entropy(logits.float().flatten(0, 1), following.flatten())
        x, product = self.read(ids).flatten(0, 1), torch.bfloat16 if MIXED else torch.float32
        nothing = torch.empty(len(self.bias), 0)
        return cross_entropy(x, self.embed.weight, nothing, self.bias, following.flatten(), product)

    def logits(self, ids):
        return functional.linear(self.read(ids), self.embed.weight, self.bias)

    def read(self, ids):
        x = self.embed(ids) * self.embed.weight.shape[1] ** 0.5
        (batch, tokens, width), blocks = x.shape, list(self.blocks)
        with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
            for qkv, out, up, down in zip(*(blocks[place::4] for place in range(4)), strict=True):
                heads = (batch, tokens, 3, self.heads, width // self.heads)
                found = functional.linear(functional.rms_norm(x, (width,)), qkv).view(heads)
                q, k = self._turn(found[:, :, :2]).permute(2, 0, 3, 1, 4)
                v = found[:, :, 2].transpose(1, 2)
                if self.ours:
                    seen = attention(q * q.shape[-1] ** -0.5, k, v)
                else:
                    seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + functional.linear(seen.transpose(1, 2).reshape(batch, tokens, width), out)
                x = x + functional.linear(functional.linear(functional.rms_norm(x, (width,)), up).relu().square(), down)
        return functional.rms_norm(x, (width,))

    def _turn(self, z):
        a, b = z.float().chunk(2, -1)
        cos, sin = (turn[: z.size(1), None, None] for turn in (self.cos, self.sin))
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(z.dtype)


def say(claim, case, value, unit, peer=None, peer_value=None):
    ratio = None if not peer_value else value / peer_value
    row = {"claim": CLAIMS[claim], "case": case, "value": value, "unit": unit, "peer": peer}
    print(json.dumps(row | {"peer_value": peer_value, "ratio": ratio}), flush=True)


class Bench:
    def __init__(self, genesis, data, size):
        self.parts = folder.read(genesis)
        self.genesis = bundle_parts.load(self.parts)
        self.spec, self.budget = next(iter(self.genesis.states.values())).spec, recipe.BUDGETS[size]
        self.basins = from_float16(self.genesis.coordizer.basins)
        corpora = text.load(data).corpora
        used = {role: text.even(corpora[role].train, self.budget.text_bytes) for role in ROLES}
        self.train = {role: [self.encode(document.text) for document in used[role]] for role in ROLES}
        self.validation = {role: [self.encode(d.text) for d in corpora[role].validation] for role in ROLES}
        self.held_out = {role: clean(corpora[role].held_out, used[role]) for role in ROLES}
        self.everything = np.concatenate([ids for role in ROLES for ids in self.train[role]])
        self.parameters = sum(value.size for value in self.genesis.states["heart"].weights.values())

    def encode(self, passage):
        return np.append(self.genesis.encoder.encode(passage), np.int32(EOS))

    def state_model(self, start=None):
        model = StateModel(self.spec, np.sqrt(self.basins), torch.Generator().manual_seed(0))
        if start is not None:
            restore(model, start)
        return model

    def plain(self, *, ours=True):
        torch.manual_seed(0)
        spec = self.spec
        return Plain(spec.vocab, spec.width, spec.layers, spec.heads, spec.context, self.parameters, ours)

    def plan(self, steps, **options):
        return Plan(steps, self.budget.windows, 0, mixed_precision=MIXED, **options)

    def bits(self, kernel, role):
        """Bits per byte of a role's held-out documents."""
        texts = [self.encode(passage)[:-1] for passage in self.held_out[role]]
        spent = sum(float(read(kernel, ids).bits(kernel.gate).sum()) for ids in texts)
        return spent / sum(len(passage.encode()) for passage in self.held_out[role])

    def kernel(self, tensors, known, roles):
        """A state and a memory with the gate that the roles' validation text asks for."""
        state = State(self.spec, coarse(tensors), np.sqrt(self.basins))
        made = Kernel(state, (known,), gate.prior(2))
        readings = [read(made, ids) for role in roles for ids in self.validation[role][:100]]
        experts, buckets = (np.concatenate([getattr(r, name) for r in readings]) for name in ("experts", "buckets"))
        return replace(made, gate=gate.learn(experts, buckets, made.gate))


def clean(held_out, known):
    """Held-out texts, evenly taken, without near-duplicates of the training text; says how many went."""
    seen = np.unique(np.concatenate([shingles(document.text) for document in known]))
    chosen = text.even(held_out, HELD_OUT_BYTES)
    kept = [document for document in chosen if overlap(shingles(document.text), seen) <= NEAR_LIMIT]
    print(f"{chosen[0].domain}: {len(chosen) - len(kept)} of {len(chosen)} near-duplicates removed", file=sys.stderr)
    return [document.text for document in kept]


def plain_steps(bench, model, steps, ids):
    """Trains a plain transformer on a text, yielding after each step."""
    matrices, rest = list(model.blocks), [model.embed.weight, model.bias]
    peaks = [(torch.optim.Muon(matrices, lr=loop.MUON_RATE, momentum=0.95, weight_decay=0.0), loop.MUON_RATE)]
    peaks += [(torch.optim.AdamW(rest, lr=loop.ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01), loop.ADAM_RATE)]
    plan, data = bench.plan(steps, decay=0.4), torch.from_numpy(ids.astype(np.int64))
    for step in range(steps):
        for optimiser, peak in peaks:
            for group in optimiser.param_groups:
                group["lr"] = peak * loop.rate_at(step, plan)
        ids = loop.draw(data, plan, step, bench.spec.context)
        loss = model(ids[:, : bench.spec.context], ids[:, 1 : bench.spec.context + 1])
        for optimiser, _ in peaks:
            optimiser.zero_grad()
        loss.backward()
        for optimiser, _ in peaks:
            optimiser.step()
        yield float(loss.detach())


def state_steps(bench, steps):
    """Trains a state, yielding after each step."""
    return train(bench.state_model(), bench.everything, bench.basins, bench.plan(steps, phi_from=0))


def seconds_a_step(runs):
    """Processor seconds a step of each run, the runs taking turns; the first two steps are warm-up."""
    spent, made = [0.0] * len(runs), 0
    for step in range(SPEED_STEPS):
        for place, run in enumerate(runs):
            began = time.process_time()
            next(run)
            spent[place] += (time.process_time() - began) * (step > 1)
        made += step > 1
    return [each / made for each in spent]


def speed(bench):
    peers = [plain_steps(bench, bench.plain(ours=ours), 1000, bench.everything) for ours in (False, True)]
    ours, alone, helped = seconds_a_step([state_steps(bench, 1000), *peers])
    tokens = bench.budget.windows * bench.spec.context
    began = time.process_time()
    memory.count(bench.train["percept"])
    counted = sum(map(len, bench.train["percept"])) / (time.process_time() - began)
    for peer, seconds in (("plain transformer", alone), ("the same with our attention and cross-entropy", helped)):
        say("speed", f"state, {bench.spec.size}", tokens / ours, "tokens/cpu-s", peer, tokens / seconds)
    say("speed", f"memory, {bench.spec.size}", counted, "tokens/cpu-s", "plain transformer", tokens / alone)


def plain(bench):
    """All domains in one model, for the seconds of all four kernels."""
    seconds, rate = cost(bench)
    model = bench.plain()
    for _ in plain_steps(bench, model, round(seconds / rate), bench.everything):
        pass
    for role in ROLES:
        compare(bench, model, role, f"one plain transformer for all, {round(seconds)} cpu-s")


def own(bench):
    """A model for each domain, for a quarter of the seconds each."""
    seconds, rate = cost(bench)
    for role in ROLES:
        model = bench.plain()
        for _ in plain_steps(bench, model, round(seconds / rate / len(ROLES)), np.concatenate(bench.train[role])):
            pass
        compare(bench, model, role, f"a plain transformer of its own, {round(seconds / len(ROLES))} cpu-s")


def cost(bench):
    """Processor seconds of the genesis's states and memories, and of a step of a plain transformer."""
    everything = bench.everything
    ours, theirs = seconds_a_step([state_steps(bench, 1000), plain_steps(bench, bench.plain(), 1000, everything)])
    began = time.process_time()
    for role in ROLES:
        recipe.memory_of(bench.train[role], bench.spec.vocab, bench.budget.saved_bits)
    return (bench.budget.seed_steps + 4 * bench.budget.branch_steps) * ours + time.process_time() - began, theirs


def compare(bench, model, role, peer):
    spent = sum(plain_bits(bench, model, bench.encode(passage)[:-1]) for passage in bench.held_out[role])
    size = sum(len(passage.encode()) for passage in bench.held_out[role])
    count = sum(parameter.numel() for parameter in model.parameters())
    case = f"{role}, {bench.parameters} parameters and {bench.genesis.memories[role].entries} n-grams"
    value = bench.bits(bench.genesis.kernel(role), role)
    say("plain", case, value, "bit/B", f"{peer}, {count} parameters", spent / size)


@torch.no_grad()
def plain_bits(bench, model, ids):
    """Code length of a text in windows of the context; the first token of each costs a uniform one, as a state's."""
    bits = 0.0
    for start in range(0, len(ids), bench.spec.context):
        window = torch.from_numpy(ids[start : start + bench.spec.context].astype(np.int64))
        bits += np.log2(bench.spec.vocab)
        if len(window) > 1:
            bits += float(
                functional.cross_entropy(model.logits(window[None, :-1])[0], window[1:], reduction="sum")
            ) / np.log(2)
    return bits


def generalist(bench):
    steps = bench.budget.seed_steps + 4 * bench.budget.branch_steps
    model = bench.state_model()
    for point in train(model, bench.everything, bench.basins, bench.plan(steps, decay=0.4)):
        assert point.verdict != "RESTORE", point
    entries, bits = sum(bench.genesis.memories[role].entries for role in ROLES), bench.budget.saved_bits
    whole = memory.count([ids for role in ROLES for ids in bench.train[role]])
    floor = np.full(bench.spec.vocab, 1 / bench.spec.vocab)
    known = prune.prune(whole, floor, bits)
    while known.entries > entries:
        bits *= 1.3
        known = prune.prune(whole, floor, bits)
    made = bench.kernel(export(model), known, ROLES)
    readers = by_reader(bench.genesis, bench.held_out)
    for role in ROLES:
        peer, value = f"generalist, {steps} steps, {known.entries} n-grams", bench.bits(made, role)
        for reader, name in ((role, "its own kernel"), ("routed", "routed"), ("fused", "fused")):
            say("generalist", f"{role}, {name}", readers[role][reader], "bit/B", peer, value)


def ablation(bench):
    found = {
        name: branches(bench, *weights)
        for name, weights in {"geometric": (losses.BASIN_WEIGHT, losses.PHI_WEIGHT), "plain": (0.0, 0.0)}.items()
    }
    for role in ROLES:
        (value, phi), (peer_value, peer_phi) = found["geometric"][role], found["plain"][role]
        peer = f"cross-entropy alone, phi {peer_phi:.2f}"
        say("ablation", f"{role}, {bench.spec.size}, phi {phi:.2f}", value, "bit/B", peer, peer_value)


def branches(bench, basin_weight, phi_weight):
    """Bits per byte and the last batch's phi of each role's kernel, trained with these weights of the losses."""
    losses.BASIN_WEIGHT, losses.PHI_WEIGHT = basin_weight, phi_weight
    guards.PHI_COLLAPSE = -1.0  # phi may fall where nothing holds it
    seed, found = bench.state_model(), {}
    list(train(seed, bench.everything, bench.basins, bench.plan(bench.budget.seed_steps, decay=0.0)))
    for role in ROLES:
        model = bench.state_model(export(seed))
        plan = bench.plan(bench.budget.branch_steps, decay=1.0, rate=0.5, warmup=10, phi_from=0)
        points = list(train(model, np.concatenate(bench.train[role]), bench.basins, plan))
        assert points[-1].verdict != "RESTORE", points[-1]
        made = bench.kernel(export(model), bench.genesis.memories[role], [role])
        found[role] = bench.bits(made, role), np.mean([point.phi for point in points[-20:]])
    return found


PARTS = {"speed": speed, "plain": plain, "own": own, "generalist": generalist, "ablation": ablation}


def main():
    torch.set_num_threads(1)
    keep_freed()  # as a genesis does; the peers profit alike
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("parts", nargs="*", default=[], help=", ".join(PARTS))
    asked.add_argument("--genesis", type=Path, default=Path("data/genesis"))
    asked.add_argument("--data", type=Path, default=Path(".qig/corpora/full"))
    asked.add_argument("--size", default="small")
    given = asked.parse_args()
    if not given.data.is_dir():
        sys.exit(f"no corpora at {given.data}: `qig corpus fetch` and `qig corpus full` make them")
    bench = Bench(given.genesis, given.data, given.size)
    for part in given.parts or PARTS:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
