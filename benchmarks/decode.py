"""Claims: a state decodes at 8 times the speed of torch eager at the same weights and batch 1, and no slower than
llama.cpp at the same shape; a whole generated token (memory, mixture, tacking, draw) costs little more than its decode.

    python benchmarks/decode.py [torch] [llama] [generate] [start] [--peers PYTHON]

Tokens per processor second of one thread, greedy, over one full window from its first token; best of three. Weights are
random: their values change no step's cost but the squared ReLU's, half of which is zero here as after training. The
memory is that of the seed text. llama.cpp runs a llama of the same width, depth, heads and vocabulary, written with
gguf, in the interpreter given by --peers, which needs gguf and llama-cpp-python (a source build, tuned to this
machine's processor); its gated MLP has three matrices where ours has two, so it is given 8/3 width hidden units for
equal multiplications, and 4 width in a row of its own. Skipped with a word on standard error where it cannot run.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy: it reads them when it is imported

import numpy as np

try:
    import torch
    from torch.nn import functional

    from common.coordizer.artifacts import prefix
    from common.coordizer.encode import Encoder
    from common.kernels import gate, memory
    from common.kernels.engine import BASIN_GAIN, EMBED_GAIN, State
    from common.kernels.generate import Speech, Voice
    from common.kernels.kernel import Kernel
    from common.kernels.spec import SIZES
    from common.kernels.weights import shapes
    from services.trainer import coordizers, text
    from services.trainer.model import StateModel, restore
except ImportError as error:  # an interpreter that has the peers alone
    if sys.argv[1:2] != ["--child"]:
        sys.exit(f"{error}: run this with the interpreter of the repository")
    import gguf
    import llama_cpp

CLAIMS = {
    "torch": "at batch 1 a state decodes at 8 times the speed of torch eager with a cache or more",
    "llama": "a state decodes no slower than llama.cpp at the same shape",
    "generate": "a whole generated token costs at most twice its decode",
    "start": "compiled code costs a second of a process's start at most, once it is on disk",
}
SHAPES = ("tiny", "small")
BATCHES = (1, 8)
REPEATS = 3
STARTS = {
    "import": "import common.kernels.generate",
    "first token": "import decode; voice = decode.speaker('tiny'); start = time.process_time(); decode.said(voice, 1)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CLAIMS, []], default=[])
    parser.add_argument("--peers", default=sys.executable, help="an interpreter that has gguf and llama-cpp-python")
    given = parser.parse_args()
    for case in given.cases or CLAIMS:
        {"torch": torch_, "llama": llama, "generate": generate_, "start": start}[case](given.peers)


def show(claim, case, value, unit, peer=None, peer_value=None, **more) -> None:
    ratio = round(value / peer_value, 3) if peer_value else None
    line = {"claim": CLAIMS[claim], "case": case, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value}
    print(json.dumps({**line, "ratio": ratio, **more}), flush=True)


def fastest(steps, decode) -> float:
    """Steps per processor second of one call of `decode`, the best of REPEATS."""
    decode()
    seconds = []
    for _ in range(REPEATS):
        begin = time.process_time()
        decode()
        seconds.append(time.process_time() - begin)
    return round(steps / min(seconds), 1)


def state_of(size):
    spec, rng = SIZES[size], np.random.default_rng(1)
    weights = {k: np.asarray(rng.normal(0, (s or (4,))[-1] ** -0.5, s), np.float32) for k, s in shapes(spec).items()}
    weights |= {k: v + np.float32(np.log(12)) for k, v in weights.items() if k.endswith("tau")}
    weights = {k: v.astype(np.float16).astype(np.float32) for k, v in weights.items()}  # as a released state's
    return State(spec, weights | {"coupling": np.float32(0.8)}, np.sqrt(rng.dirichlet(np.ones(64), spec.vocab)))


def ours(state, batch):
    """Greedy continuations of `batch` one-token texts: returns the decode, which returns the last logits (B, V)."""
    slots, steps = np.arange(batch), state.spec.context - 1

    def decode():
        cache, ids = state.start(batch), np.arange(batch, dtype=np.int32)
        for _ in range(steps):
            hidden, basins = state.step(cache, ids, slots)
            logits = state.speak(hidden, basins)
            ids = logits.argmax(-1).astype(np.int32)
        return logits

    return decode


def torch_(_) -> None:
    for size in SHAPES:
        state = state_of(size)
        for batch in BATCHES:
            mine, theirs = ours(state, batch), eager(state, batch)
            off = float(np.abs(mine() - theirs()).max())
            tokens = batch * (state.spec.context - 1)
            value, peer = fastest(tokens, mine), fastest(tokens, theirs)
            show("torch", f"{size}, batch {batch}", value, "tokens/cpu-s", "torch eager", peer, logits_off=off)


def eager(state, batch):
    """The torch twin a token at a time, with a static cache: the same weights, the same greedy texts."""
    torch.set_num_threads(1)
    spec, steps = state.spec, state.spec.context - 1
    model = StateModel(spec, state.sqrt_basins, torch.Generator())
    restore(model, state.weights)
    w, width, shape = model.tensors, (spec.width,), (batch, spec.heads, 1, spec.head_width)
    table = torch.cat([w["embed"].detach(), model.sqrt_basins], 1)
    keys, values = torch.zeros(2, spec.depth, batch, spec.heads, spec.context, spec.head_width)

    def rotate(z, t):
        a, b = z.chunk(2, -1)
        return torch.cat([a * model.cos[t] - b * model.sin[t], b * model.cos[t] + a * model.sin[t]], -1)

    def block(x, name, k_past, v_past, t):
        q, k, v = functional.linear(functional.rms_norm(x, width), w[name + "qkv"]).chunk(3, -1)
        k_past[:, :, t : t + 1] = functional.normalize(rotate(k.view(shape), t), dim=-1)
        v_past[:, :, t : t + 1] = v.view(shape)
        q = functional.normalize(rotate(q.view(shape), t), dim=-1) * w[name + "tau"].exp()[:, None, None]
        seen = functional.scaled_dot_product_attention(q, k_past[:, :, : t + 1], v_past[:, :, : t + 1], scale=1.0)
        x = x + functional.linear(seen.reshape(batch, spec.width), w[name + "o"])
        inner = functional.linear(functional.rms_norm(x, width), w[name + "up"]).relu().square()
        return x + functional.linear(inner, w[name + "down"])

    def step(inputs, ids, t):
        x = inputs[ids]
        for depth in range(spec.depth):
            x = block(x, f"blocks|{depth % spec.layers}|", keys[depth], values[depth], t)
        hidden = functional.rms_norm(x, width)
        basins = torch.softmax(functional.linear(hidden, w["basin|weight"], w["basin|bias"]), -1)
        spoken = torch.cat([functional.linear(hidden, w["leave"]), 10 * w["coupling"] * basins.sqrt()], -1)
        return functional.linear(spoken, table, w["bias"])

    @torch.inference_mode()
    def decode():
        inputs = float(EMBED_GAIN) * w["embed"] + float(BASIN_GAIN) * functional.linear(model.sqrt_basins, w["enter"])
        ids = torch.arange(batch)
        for t in range(steps):
            logits = step(inputs, ids, t)
            ids = logits.argmax(-1)
        return logits.numpy()

    return decode


def llama(peers) -> None:
    for size in SHAPES:
        state = state_of(size)
        for batch in BATCHES:
            value = fastest(batch * (state.spec.context - 1), ours(state, batch))
            for number in ("float32", "float16"):
                for name, units in (("8/3", state.spec.width * 8 // 3 // 32 * 32), ("4", 4 * state.spec.width)):
                    found = child(peers, "llama", size, str(batch), number, str(units))
                    if found is None:
                        return
                    case = f"{size}, batch {batch}, {number}, MLP of {name} width"
                    show("llama", case, value, "tokens/cpu-s", "llama.cpp", found["speed"], built=found["built"])


def child(python, *arguments):
    """One measurement in a process of its own; None, loudly, where it cannot run."""
    done = subprocess.run([python, __file__, "--child", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"skipped {arguments}: {(done.stderr.strip() or 'no word').splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def speaker(size):
    """A voice whose memory is the seed text of VOCAB under the shipped coordizer's prefix, and a prompt of it."""
    state, root = state_of(size), Path(__file__).parents[1] / "data"
    encoder = Encoder(prefix(coordizers.read(root / "coordizer-32k"), state.spec.vocab))
    texts = [encoder.encode(t) for t in text.load(root).replay["vocab"]]
    kernel = Kernel(state, (memory.count(texts),), gate.prior(2))
    return Voice(kernel, np.square(state.sqrt_basins.astype(np.float64)).mean(0), 1.0), texts[0][:16]


def said(voice_and_prompt, tokens):
    voice, prompt = voice_and_prompt
    rng = np.random.default_rng(0)
    return list(Speech([voice], prompt, max_tokens=tokens, temperature=0.8, stop=frozenset(), rng=rng))


def generate_(_) -> None:
    for size in SHAPES:
        voice = speaker(size)
        state = voice[0].kernel.state
        inside = state.spec.context - 1 - len(voice[1])
        decode = fastest(state.spec.context - 1, ours(state, 1))
        for case, tokens in (("within the window", inside), ("window rolling over", 1000)):
            value = fastest(tokens, lambda voice=voice, tokens=tokens: said(voice, tokens))
            show("generate", f"{size}, {case}", value, "tokens/cpu-s", "decode alone, greedy", decode)


def start(_) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for heat in ("cold", "warm"):
            for case, code in STARTS.items():
                source = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
                where = {"NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(Path(__file__).parent)}
                made = subprocess.run(
                    [sys.executable, "-c", source], env=os.environ | where, capture_output=True, text=True, check=True
                )
                show("start", f"{heat}, {case}", round(float(made.stdout), 2), "cpu-s")


# --- what the child runs, in the interpreter of --peers ---


def child_llama(size, batch, number, units):
    c = llama_cpp
    spec, batch = {"tiny": (2048, 96, 3, 128), "small": (4096, 128, 4, 256)}[size], int(batch)
    vocab, _, _, context = spec
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.gguf"
        write_llama(path, *spec, int(units), np.dtype(number).type)
        c.llama_log_set(QUIET, None)
        model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
    settings = c.llama_context_default_params()
    settings.n_ctx, settings.n_seq_max, settings.n_threads, settings.n_threads_batch = context * batch, batch, 1, 1
    run, todo = c.llama_init_from_model(model, settings), c.llama_batch_init(batch, 0, 1)

    def decode():
        c.llama_memory_clear(c.llama_get_memory(run), True)
        ids = np.arange(batch)
        for t in range(context - 1):
            todo.n_tokens = batch
            for i in range(batch):
                todo.token[i], todo.pos[i], todo.n_seq_id[i], todo.logits[i] = int(ids[i]), t, 1, 1
                todo.seq_id[i][0] = i
            assert c.llama_decode(run, todo) == 0
            logits = [np.ctypeslib.as_array(c.llama_get_logits_ith(run, i), (vocab,)) for i in range(batch)]
            ids = [each.argmax() for each in logits]

    built = c.llama_print_system_info().decode()
    return {"speed": fastest(batch * (context - 1), decode), "built": "AVX512" if "AVX512 = 1" in built else "AVX2"}


QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def write_llama(path, vocab, width, heads, context, units, number) -> None:
    """A llama of four layers with random weights, without a tokenizer."""
    file, rng = gguf.GGUFWriter(path, "llama"), np.random.default_rng(1)
    file.add_context_length(context)
    file.add_embedding_length(width)
    file.add_block_count(4)
    file.add_feed_forward_length(units)
    file.add_head_count(heads)
    file.add_head_count_kv(heads)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_dimension_count(width // heads)
    file.add_vocab_size(vocab)
    file.add_tokenizer_model("no_vocab")
    matrices = {"token_embd": (vocab, width), "output": (vocab, width)}
    for layer in range(4):
        square = ("attn_q", "attn_k", "attn_v", "attn_output")
        shapes = dict.fromkeys(square, (width, width))
        shapes |= {"ffn_gate": (units, width), "ffn_up": (units, width), "ffn_down": (width, units)}
        matrices |= {f"blk.{layer}.{name}": shape for name, shape in shapes.items()}
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    file.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name, shape in matrices.items():
        file.add_tensor(f"{name}.weight", rng.normal(0, shape[1] ** -0.5, shape).astype(number))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


if __name__ == "__main__":
    if sys.argv[1:3] == ["--child", "llama"]:
        print(json.dumps(child_llama(*sys.argv[3:])))
    else:
        main()
