// A reader of sleep packets that shares nothing with the fleet: written from docs/wire/packet.md, with Node alone.
// `node packet.mjs VECTORS` reads packets.json and packets_refused.json there; says what it read of each, as one JSON line.

import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

const PACKET_MOST = 4096, CRYSTALS_MOST = 192 * 1024, NGRAMS_MOST = 4096, TOTAL_MOST = 2 ** 24 - 1, MENTIONS_MOST = 2048;
const SAFE = Number.MAX_SAFE_INTEGER, U32 = 2 ** 32 - 1;

class Refused extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}
const refuse = (code, message) => { throw new Refused(code, message); };

// ---- msgpack: arrays, bin, str, whole numbers, floats of 64 bits, nil; `short` is false where a shorter form would do

class Msgpack {
  constructor(bytes) { this.bytes = bytes; this.at = 0; this.short = true; }

  take(size) {
    if (this.at + size > this.bytes.length) refuse("garbage", "cut off");
    this.at += size;
    return this.bytes.subarray(this.at - size, this.at);
  }

  uint(size, least) {
    const value = size === 8 ? this.take(8).readBigUInt64BE() : BigInt(this.take(size).readUIntBE(0, size));
    if (value < BigInt(least)) this.short = false;
    return Number(value);
  }

  sint(size) {
    const value = size === 8 ? Number(this.take(8).readBigInt64BE()) : this.take(size).readIntBE(0, size);
    const fits = { 1: -32, 2: -128, 4: -32768, 8: -(2 ** 31) }[size];
    if (value >= fits) this.short = false;
    return value;
  }

  text(size) {
    const found = this.take(size);
    const text = found.toString("utf8");
    if (!Buffer.from(text, "utf8").equals(found)) refuse("garbage", "no UTF-8");
    return { kind: "str", value: text };
  }

  list(size) {
    if (size > this.bytes.length - this.at) refuse("garbage", "an array longer than the bytes");
    const start = this.at;
    const value = Array.from({ length: size }, () => this.value());
    return { kind: "array", value, start };
  }

  value() {
    const tag = this.take(1)[0];
    if (tag < 0x80) return { kind: "int", value: tag };
    if (tag >= 0xe0) return { kind: "int", value: tag - 256 };
    if (tag >= 0xa0 && tag < 0xc0) return this.text(tag & 31);
    if (tag >= 0x90 && tag < 0xa0) return this.list(tag & 15);
    switch (tag) {
      case 0xc0: return { kind: "nil", value: null };
      case 0xc4: return { kind: "bin", value: this.take(this.uint(1, 0)) };
      case 0xc5: return { kind: "bin", value: this.take(this.uint(2, 256)) };
      case 0xcb: return { kind: "float", value: this.take(8).readDoubleBE() };
      case 0xcc: return { kind: "int", value: this.uint(1, 128) };
      case 0xcd: return { kind: "int", value: this.uint(2, 256) };
      case 0xce: return { kind: "int", value: this.uint(4, 65536) };
      case 0xcf: return { kind: "int", value: this.uint(8, 2 ** 32) };
      case 0xd0: return { kind: "int", value: this.sint(1) };
      case 0xd1: return { kind: "int", value: this.sint(2) };
      case 0xd2: return { kind: "int", value: this.sint(4) };
      case 0xd3: return { kind: "int", value: this.sint(8) };
      case 0xd9: return this.text(this.uint(1, 32));
      case 0xdc: return this.list(this.uint(2, 16));
      default: return refuse("garbage", `tag ${tag.toString(16)}`);
    }
  }
}

// ---- fields: what each may be. A whole number is fine where a float is due, but it is not the form that is signed.

const whole = (least, most) => ({ kind, value }) => {
  if (kind !== "int" || value < least || value > most) refuse("bad_field", "a whole number out of its bounds");
  return value;
};
const real = (least, most) => ({ kind, value }, state) => {
  if (kind === "int") state.canonical = false;
  if ((kind !== "float" && kind !== "int") || !(value >= least && value <= most)) refuse("bad_field", "a number");
  return value;
};
const bin = (least, most) => ({ kind, value }) => {
  if (kind !== "bin" || value.length < least || value.length > most) refuse("bad_field", "bytes of another length");
  return value;
};
const text = (form) => ({ kind, value }) => {
  if (kind !== "str" || !form.test(value)) refuse("bad_field", "no such name");
  return value;
};
const maybe = (field) => (found, state) => (found.kind === "nil" ? null : field(found, state));
const version = ({ kind, value }) => (kind === "int" && value === 1 ? 1 : refuse("wrong_version", String(value)));
const four = (field) => ({ kind, value }, state) => {
  if (kind !== "array" || value.length !== 4) refuse("bad_field", "not four");
  return value.map((each) => field(each, state));
};

const ENVELOPE = {
  v: version, key: bin(8, 8), epoch: whole(0, U32), sequence: whole(0, U32), base_version: whole(0, SAFE), base: bin(8, 8),
  at_s: real(0, 1e11), body: bin(1, PACKET_MOST), signature: bin(64, 64),
};
const BODY = {
  v: version, kernel: text(/^(vocab|strategy|percept|heart)$/), domain: maybe(text(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/)),
  basin: bin(64, 64), interactions: whole(0, SAFE), tokens: whole(0, SAFE), fresh_bytes: whole(0, SAFE),
  fresh_bits: real(0, Number.MAX_VALUE), phi: maybe(real(0, 1)), kappa: maybe(real(0, Number.MAX_VALUE)),
  phases: four(whole(0, SAFE)), gate: bin(0, 128), crystals: bin(0, PACKET_MOST), mentions: bin(0, PACKET_MOST),
  merges: bin(0, 144),
};
const LATER = ["mentions", "merges"]; // left out at the end where they are empty

function row(bytes, fields) {
  const reader = new Msgpack(bytes);
  const found = reader.value();
  if (reader.at !== bytes.length) refuse("garbage", "bytes left over");
  const names = Object.keys(fields);
  const least = names.filter((name) => !LATER.includes(name)).length;
  if (found.kind !== "array" || found.value.length < least || found.value.length > names.length) {
    refuse("bad_field", `${names.length} fields are due`);
  }
  const state = { canonical: reader.short };
  const last = found.value.at(-1);
  if (found.value.length > least && last.kind === "bin" && last.value.length === 0) refuse("not_canonical", "an empty end");
  const there = names.slice(0, found.value.length);
  const value = Object.fromEntries(there.map((name, n) => [name, fields[name](found.value[n], state)]));
  if (!state.canonical) refuse("not_canonical", "not its shortest form");
  return value;
}

// ---- the signature: over a name, a zero byte, and an array of the first 8 fields, which end 66 bytes before the packet

function check(packet, envelope, publicKey) {
  const signed = Buffer.concat([Buffer.from("qig/packet/1\0"), Buffer.from([0x98]), packet.subarray(1, -66)]);
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), publicKey]);
  const key = createPublicKey({ key: der, format: "der", type: "spki" });
  const name = createHash("sha256").update(publicKey).digest().subarray(0, 8);
  if (!name.equals(envelope.key) || !verify(null, signed, key, envelope.signature)) refuse("bad_signature", "forged");
}

// ---- crystals

const bad = (message) => refuse("bad_crystals", message);

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}

const LEVELS = [1];
for (let n = 1; n < 32; n++) LEVELS.push(2 ** n, 3 * 2 ** (n - 1));

function crystals(blob, vocabulary, prior) {
  if (blob.length === 0) return [];
  if (blob.length > CRYSTALS_MOST) refuse("oversized", "crystals");
  if (blob.length < 7) bad("less than the header");
  if (![1, 2, 3].includes(blob[0])) bad("another form");
  if (blob[0] === 3 && !prior) refuse("unknown_base", "no base");
  const name = blob[0] === 3 ? prior.name : Buffer.alloc(0);
  if (crc32(Buffer.concat([name, blob.subarray(0, 1), blob.subarray(5)])) !== blob.readUInt32LE(1)) bad("crc32");
  if (blob.readUInt16LE(5) !== vocabulary) refuse("wrong_vocabulary", String(blob.readUInt16LE(5)));
  return blob[0] === 1 ? plain(blob) : adaptive(blob, vocabulary, blob[0] === 3 ? prior : null);
}

const few = (count, most = NGRAMS_MOST) => (count > most ? refuse("too_many_entries", String(count)) : count);

function sizesOf(blob, count) {
  let at = 7;
  const sizes = Array.from({ length: count }, () => {
    let value = 0;
    for (let place = 0; place < 4; place++) {
      const next = at < blob.length ? blob[at++] : bad("cut off");
      value += (next & 127) * 2 ** (7 * place);
      if (next < 128) return value;
    }
    return bad("a size that does not end");
  });
  return [sizes, at];
}

// ---- the plain form

function plain(blob) {
  const vocabulary = blob.readUInt16LE(5);
  let [[tokenCount, heads, unaryBits], at] = sizesOf(blob, 3);
  const byte = () => (at < blob.length ? blob[at++] : bad("cut off"));
  const ks = Array.from({ length: 6 }, byte).flatMap((two) => [two >> 4, two & 15]);
  const tables = [0, 1, 2].map(() => {
    const table = Array.from({ length: byte() }, byte);
    if (table.length > LEVELS.length + 1 || table.some((level) => level > LEVELS.length)) bad("a level table");
    return table;
  });
  few(tokenCount, 3 * NGRAMS_MOST);

  const bits = 8 * (blob.length - at);
  if (unaryBits > bits) bad("unary bits");
  const bit = (place) => (blob[at + (place >> 3)] >> (7 - (place & 7))) & 1;
  let unary = 0, rest = unaryBits;
  const number = (k) => {
    let value = 0;
    while (unary < unaryBits && !bit(unary)) { value++; unary++; }
    if (unary++ >= unaryBits || rest + k > bits) bad("a column goes beyond the bits");
    for (let n = 0; n < k; n++) value = 2 * value + bit(rest++);
    return value;
  };
  const column = (count, k) => Array.from({ length: count }, () => number(k));

  const tokens = [];
  for (const gap of column(tokenCount, ks.shift())) tokens.push((tokens.at(-1) ?? -1) + 1 + gap);
  if (tokens.length && tokens.at(-1) >= vocabulary) bad("a token");

  const ngrams = [];
  let above = [{ path: [], kids: heads }];
  for (let depth = 0; depth < 3; depth++) {
    const count = few(above.reduce((sum, node) => sum + node.kids, 0));
    const gaps = column(count, ks.shift());
    const ranks = column(count, ks.shift());
    const kids = depth < 2 ? column(count, ks.shift()) : Array(count).fill(0);
    const nodes = [];
    for (const parent of above) {
      for (let place = -1, left = parent.kids; left > 0; left--) {
        const n = nodes.length;
        place += 1 + gaps[n];
        if (place >= tokens.length) bad("a place");
        if (ranks[n] >= tables[depth].length) bad("a rank");
        const level = tables[depth][ranks[n]];
        if (level === 0 && kids[n] === 0) bad("a node that leads nowhere");
        nodes.push({ path: [...parent.path, tokens[place]], parent, count: level ? LEVELS[level - 1] : 0, kids: kids[n] });
      }
    }
    const k = ks.shift();
    const named = nodes.filter((node) => node.count);
    for (const node of named) node.parent.sum = (node.parent.sum ?? 0) + node.count;
    for (const parent of above.filter((node) => node.sum)) {
      parent.total = parent.sum * 2 ** number(k);
      if (parent.total > TOTAL_MOST) bad("a total");
    }
    ngrams.push(...named.map((node) => [...node.path, node.count, node.parent.total].join(" ")));
    above = nodes.map(({ path, kids: under }) => ({ path, kids: under }));
  }
  few(ngrams.length);
  if (unary !== unaryBits || bits - rest >= 8) bad("bits left over");
  while (rest < bits) if (bit(rest++)) bad("padding");
  return ngrams;
}

// ---- the adaptive form: one code through the closed trie

const WHOLE = 2 ** 32, TOP = 2 ** 24, UNIT = 2 ** 24;
const RATES = Array.from({ length: 40 }, (_, n) => Math.floor(65536 / (n + 2)));
const FOLLOWERS = [8, ...LEVELS.map((level) => Math.min(level, 2048))];
const TAILS = [1, ...LEVELS.slice(1).map((level) => Math.min(level, 3072)), 3072];

class Code {
  constructor(bytes) {
    this.bytes = bytes;
    [this.at, this.low, this.range, this.code, this.chances] = [0, 0, WHOLE - 1, 0, new Map()];
    for (let n = 0; n < 4; n++) this.code = this.code * 256 + this.next();
  }

  next() { return this.bytes[this.at++] ?? 0; }

  narrow(low, size) {
    this.low = (this.low + low) % WHOLE;
    this.code -= low;
    for (this.range = size; this.range < TOP; this.range *= 256) {
      this.code = this.code * 256 + this.next();
      this.low = (this.low * 256) % WHOLE;
    }
  }

  chance(name) {
    if (!this.chances.has(name)) this.chances.set(name, { one: 32768, met: 0 });
    return this.chances.get(name);
  }

  bit(kind, context, place) {
    const own = this.chance(`${kind} ${context} ${place}`), all = this.chance(`${kind} all ${place}`);
    if (own.met === 0) [own.one, own.met] = [all.one, Math.min(all.met, 1)];
    const ones = Math.floor(this.range / 65536) * own.one;
    const value = this.code < ones;
    if (value) this.narrow(0, ones);
    else this.narrow(ones, this.range - ones);
    for (const each of own === all ? [own] : [own, all]) {
      each.one += Math.floor((((value ? 65536 : 0) - each.one) * RATES[each.met]) / 65536);
      each.one = Math.min(Math.max(each.one, 24), 65536 - 24);
      each.met = Math.min(each.met + 1, 39);
    }
    return value;
  }

  number(kind, context, most) {
    let n = 0;
    while (n < most && this.bit(kind, context, Math.min(n, 15))) n++;
    return n;
  }

  // The least of `left` members among the places from `first` up to `stop`; sums[n]: the weights before place n.
  pick(sums, first, stop, left) {
    const parts = 65536 + stop - first;
    const beyond = (place) => {
      let unit = Math.floor(((sums[stop] - sums[place]) * UNIT) / (sums[stop] - sums[first])), share = UNIT;
      for (let exponent = left; exponent > 0; exponent >>= 1) {
        if (exponent & 1) share = Math.floor((share * unit) / UNIT);
        unit = Math.floor((unit * unit) / UNIT);
      }
      return parts - (Math.floor(share / 256) + stop - place);
    };
    let low = first, high = stop - left + 1, here = 0, after = beyond(high);
    const unit = Math.floor(this.range / after), wanted = Math.floor(this.code / unit);
    while (high - low > 1) {
      const middle = (low + high) >> 1, parts_ = beyond(middle);
      if (parts_ <= wanted) [low, here] = [middle, parts_];
      else [high, after] = [middle, parts_];
    }
    this.narrow(here * unit, (after - here) * unit);
    return low;
  }

  // Of the numbers in the range the one with most zero bytes at its end, and those not written.
  end() {
    let chosen = this.low;
    for (const step of [WHOLE, 2 ** 24, 2 ** 16, 2 ** 8]) {
      const rounded = Math.ceil(this.low / step) * step;
      if (rounded < this.low + this.range) { chosen = rounded; break; }
    }
    const { length } = this.bytes;
    if (chosen - this.low !== this.code || length > this.at || (length && this.bytes[length - 1] === 0)) bad("the end");
  }
}

const least = (one, other) => Math.min(one && other ? Math.min(one, other) : one || other || 15, 15);

function expected(level, sum) {
  if (!level) return 15;
  let shift = 0;
  while (shift < 14 && sum * 2 ** shift < LEVELS[level - 1]) shift++;
  return shift;
}

// What a base expects: levels of tokens, and the followers of each with theirs; named by the sha256 of all four columns.
function priorOf({ name, levels, starts, followers, heard }) {
  const content = [Uint8Array.from(levels), Uint32Array.from(starts), Uint16Array.from(followers), Uint8Array.from(heard)];
  const hash = createHash("sha256");
  for (const each of content) hash.update(Buffer.from(each.buffer));
  const digest = hash.digest().subarray(0, 8);
  if (digest.toString("hex") !== name) throw new Error("the prior has another name");
  return { name: digest, levels, of: (id) => followers.slice(starts[id], starts[id + 1]).map((f, n) => [f, heard[starts[id] + n]]) };
}

// How much more each of the listed tokens weighs after one, because the base expects it there.
function besides(prior, id, tokens, whole) {
  const places = new Map(tokens.map((token, place) => [token.id, place])), more = tokens.map(() => 0);
  let total = 0;
  for (const [follower, heard] of prior.of(id)) {
    if (!places.has(follower)) continue;
    const place = places.get(follower), { level } = tokens[place];
    const rise = level ? Math.floor((level - prior.levels[follower]) / 2) + 6 : -3;
    more[place] = LEVELS[Math.min(Math.max(heard + rise, 0), 40)];
    total += more[place];
  }
  const scale = Math.floor((4 * whole * 65536) / Math.max(total, 1));
  return more.map((weight) => Math.floor((weight * scale) / 65536));
}

function adaptive(blob, vocabulary, prior) {
  const [[tokenCount, pairCount, tripleCount], at] = sizesOf(blob, 3);
  [tokenCount, pairCount, tripleCount].forEach((count, n) => few(count, (3 - n) * NGRAMS_MOST));
  let bytes = blob.subarray(at);
  const least_ = Math.ceil((tokenCount + pairCount + tripleCount) / 4);
  if (bytes.length < least_) bad("more nodes than so many bytes have");
  if (bytes.length === least_) while (bytes.length && bytes.at(-1) === 0) bytes = bytes.subarray(0, -1);
  const code = new Code(bytes), ngrams = [];
  const sumsOf = (weights) => {
    const sums = [0];
    for (const weight of weights) sums.push(sums.at(-1) + weight);
    return sums;
  };

  const tokens = [];
  for (let id = 0, left = pairCount; id < vocabulary && tokens.length < tokenCount; id++) {
    const kind = prior ? Math.min(prior.levels[id], 31) : 32 - Math.clz32(id >> 5);
    if (!code.bit("there", kind, 0)) continue;
    const level = code.number("level", kind >> 1, 63);
    const kids = code.number("kids", Math.min(level, 31), Math.min(left, tokenCount));
    tokens.push({ id, level, kids, needed: level + kids > 0 });
    left -= kids;
  }
  if (tokens.length < tokenCount) bad("fewer tokens");
  if (tokens.reduce((sum, token) => sum + token.kids, 0) < pairCount) bad("fewer pairs");

  const told = (path, level, total) => ngrams.push([...path, LEVELS[level - 1], total].join(" "));
  const total = (context, entries) => {
    const counted = entries.filter(({ level }) => level);
    if (!counted.length) return;
    const sum = counted.reduce((all, { level }) => all + LEVELS[level - 1], 0);
    const whole = sum * 2 ** code.number("total", context === null ? 15 : expected(context.level, sum), 31);
    if (whole > TOTAL_MOST) bad("a total");
    counted.forEach(({ path, level }) => told(path, level, whole));
  };
  tokens.forEach((token) => { token.path = [token.id]; });
  total(null, tokens);

  const weights = tokens.map(({ level }) => FOLLOWERS[level]), plainSums = sumsOf(weights), pairs = [];
  for (const first of tokens) {
    first.start = pairs.length;
    const more = prior && first.kids ? besides(prior, first.id, tokens, plainSums.at(-1)) : null;
    const followers = more ? sumsOf(weights.map((weight, n) => weight + more[n])) : plainSums;
    for (let left = first.kids, place = -1; left > 0; left--) {
      place = code.pick(followers, place + 1, tokens.length, left);
      const second = tokens[place];
      second.needed = true;
      const level = code.number("pair level", least(first.level, second.level), 63);
      pairs.push({ path: [first.id, second.id], second, level });
    }
    total(first, pairs.slice(first.start));
  }
  tokens.forEach((token) => { token.stop = token.start + token.kids; });

  const tails = sumsOf(pairs.map(({ level }) => TAILS[level]));
  let left3 = tripleCount;
  for (const pair of pairs) {
    const { start, stop } = pair.second, triples = [];
    const kids = code.number("triples", Math.min(pair.level, 15), Math.min(stop - start, left3));
    left3 -= kids;
    pair.needed ||= pair.level + kids > 0;
    for (let left = kids, place = start - 1; left > 0; left--) {
      place = code.pick(tails, place + 1, stop, left);
      pairs[place].needed = true;
      const level = 1 + code.number("triple level", least(pair.level, pairs[place].level), 62);
      triples.push({ path: [...pair.path, pairs[place].path[1]], level });
    }
    total(pair, triples);
  }
  if (left3) bad("fewer triples");
  code.end();
  if (![...tokens, ...pairs].every(({ needed }) => needed)) bad("a node that leads nowhere");
  few(ngrams.length);
  return ngrams;
}

// ---- mentions: a set of 24-bit hashes, Rice-coded gaps whose parameter follows from their number

function hashes(blob) {
  if (!blob?.length) return [];
  const bad = (message) => refuse("bad_mentions", message);
  const count = blob.length < 2 ? 0 : blob.readUInt16LE(0);
  if (count < 1 || count > MENTIONS_MOST) bad("a number of hashes");
  const k = Math.max(Math.floor(Math.log2(Math.max(Math.floor((2 ** 16 * 177) / count), 1))), 0);
  const bits = 8 * (blob.length - 2);
  const bit = (place) => (place < bits ? (blob[2 + (place >> 3)] >> (7 - (place & 7))) & 1 : bad("cut off"));
  let at = 0;
  const quotients = Array.from({ length: count }, () => {
    let zeros = 0;
    while (!bit(at++)) zeros++;
    return zeros;
  });
  let last = -1;
  const found = quotients.map((quotient) => {
    let gap = quotient;
    for (let n = 0; n < k; n++) gap = 2 * gap + bit(at++);
    return (last += 1 + gap);
  });
  if (last >= 2 ** 24) bad("more than 24 bits");
  if (bits - at >= 8) bad("bytes left over");
  while (at < bits) if (bit(at++)) bad("padding");
  return found;
}

// ---- merges: rows of two tokens and a count, 16 bits each, ascending

function merges(blob, vocabulary) {
  const bad = (message) => refuse("bad_merges", message);
  if (!blob?.length) return [];
  if (blob.length % 6) bad("cut off");
  const rows = Array.from({ length: blob.length / 6 }, (_, n) => [0, 2, 4].map((place) => blob.readUInt16BE(6 * n + place)));
  rows.forEach(([left, right, count], n) => {
    const [before, last] = rows[n - 1] ?? [-1, -1];
    if (left < before || (left === before && right <= last)) bad("not ascending");
    if (Math.max(left, right) >= vocabulary || count === 0) bad("a merge that cannot be");
  });
  return rows;
}

// ---- a packet, in the order of docs/wire/packet.md

function read(packet, publicKey, vocabulary, prior) {
  if (packet.length > PACKET_MOST) refuse("packet_too_large", String(packet.length));
  const envelope = row(packet, ENVELOPE);
  check(packet, envelope, publicKey);
  const body = row(envelope.body, BODY);
  const ngrams = crystals(body.crystals, vocabulary, prior);
  const mentions = hashes(body.mentions);
  const proposed = merges(body.merges, vocabulary);
  delete envelope.body;
  delete body.crystals;
  delete body.mentions;
  delete body.merges;
  return { envelope: readable(envelope), body: readable(body), ngrams, mentions, merges: proposed };
}

const readable = (fields) =>
  Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, Buffer.isBuffer(value) ? value.toString("hex") : value]));

function codeOf(work) {
  try {
    work();
  } catch (problem) {
    if (problem instanceof Refused) return problem.code;
    throw problem;
  }
  return "read";
}

const file = (name) => JSON.parse(readFileSync(`${process.argv[2]}/${name}`, "utf8"));
const hex = (digits) => Buffer.from(digits, "hex");
const prior = priorOf(file("prior.json"));
const taken = file("packets.json"), refused = file("packets_refused.json");
console.log(JSON.stringify({
  packets: Object.fromEntries(Object.entries(taken.packets).map(([name, each]) =>
    [name, read(hex(each.raw), hex(taken.public_key), each.vocab_size, each.prior && prior)])),
  refused: refused.packets.map((each) => codeOf(() => read(hex(each.raw), hex(refused.public_key), refused.vocab_size))),
}));
