// A client of a fleet in Node: ask, stream, cancel, with nothing but Redis and msgpack. What it relies on: ../../clients.md
//
//     npm ci && node client.mjs "Where does the river go?"

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { decode, encode } from "@msgpack/msgpack";
import { Redis } from "ioredis";

const QUERIES = "qig:queries";
const CANCEL = "qig:cancel";
const DEAD = "{qig:queries}:dead";

/** Why there is no answer. code: docs/clients.md; retryAfterS: when asking again may help. */
export class Problem extends Error {
  constructor(code, message, retryAfterS = null) {
    super(message);
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export class Client {
  #open = new Map(); // by query id: what came for it and was not yet taken, and who waits for more
  #readers = [];
  #closed = false;

  /**
   * name: letters, digits and . _ -; what comes back is found under it, so no two programs share one. With a user of
   * its own at the broker it is that user's, or USER.anything; INFO, which ioredis would ask first, is not for it.
   */
  static async connect(url, name) {
    const client = new Client();
    client.name = name;
    client.redis = new Redis(url, { maxRetriesPerRequest: null }); // commands wait for an outage to end
    for (const stream of [`qig:answers:${name}`, DEAD]) {
      const newest = await client.#newest(stream);
      if (newest) client.#follow(stream, newest);
    }
    return client;
  }

  // The id of the newest entry; null where a client's user may not look, since others' queries lie there.
  async #newest(stream) {
    try {
      const about = await this.redis.xinfo("STREAM", stream);
      return about[about.indexOf("last-generated-id") + 1];
    } catch (error) {
      if (error.message.includes("no such key")) return "0-0";
      if (stream === DEAD && error.message.startsWith("NOPERM")) return null;
      this.close();
      throw error;
    }
  }

  /** The answer to a query, `{text, max_tokens, ...}`: the fields of docs/wire/schemas/query.json. */
  async ask(query) {
    const said = this.stream({ stream: false, ...query });
    for (;;) {
      const { value, done } = await said.next();
      if (done) return value;
    }
  }

  /** Yields the answer's pieces and returns the answer. Leaving it early cancels the query. Throws Problem. */
  async *stream(query) {
    const asked = { stream: true, id: randomUUID(), ...query, client: this.name };
    const open = { body: Buffer.from(encode(asked)), came: [], wake: () => {} };
    let [node, next, ended] = ["", 0, false];
    this.#open.set(asked.id, open);
    try {
      await this.redis.xadd(QUERIES, "*", "__data__", open.body);
      for (;;) {
        while (!open.came.length) await new Promise((wake) => (open.wake = wake));
        const message = open.came.shift();
        if ("index" in message) {
          if (message.index === 0) [node, next] = [message.node, 0]; // this edge begins the text anew
          if (message.node !== node || message.index !== next) continue; // seen before, or an edge that lost the query
          next += 1;
          yield message;
          continue;
        }
        ended = true;
        if (message.problem) throw new Problem(message.problem.code, message.problem.message, message.problem.retry_after_s);
        if ("reason" in message) throw new Problem(message.code, message.reason); // it became a dead letter
        return message;
      }
    } finally {
      this.#open.delete(asked.id);
      if (!ended) await this.cancel(asked.id);
    }
  }

  /** The edge that makes this answer stops between two tokens, and answers with what it has. */
  async cancel(id) {
    const cancel = Buffer.from(encode({ query_id: id, client: this.name }));
    await this.redis.xadd(CANCEL, "MAXLEN", "~", 1000, "*", "__data__", cancel);
  }

  close() {
    this.#closed = true;
    for (const redis of [this.redis, ...this.#readers]) redis.disconnect();
  }

  // From the last entry seen, for ever: after an outage it goes on where it was.
  async #follow(stream, position) {
    const reader = this.redis.duplicate();
    this.#readers.push(reader);
    while (!this.#closed) {
      const found = await reader
        .xreadBuffer("COUNT", 64, "BLOCK", 1000, "STREAMS", stream, position)
        .catch(() => this.#closed || setTimeout(1000, null)); // what is refused now is not asked again at once
      for (const [entry, fields] of found?.[0]?.[1] ?? []) {
        position = entry.toString();
        try {
          this.#hear(decode(fields[1]));
        } catch (error) {
          console.warn(`${stream} ${position} is passed over: ${error.message}`);
        }
      }
    }
  }

  #hear(message) {
    for (const [id, open] of this.#open) {
      const ours = message.query_id === id && message.client === this.name;
      if (!ours && !(message.body && open.body.equals(message.body))) continue;
      open.came.push(message);
      open.wake();
    }
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const url = process.env.QIG_BROKER_URL ?? "redis://127.0.0.1:6379";
  const client = await Client.connect(url, `${new URL(url).username || "node"}.${randomUUID()}`);
  const said = client.stream({ text: process.argv[2] ?? "Where does the river go?", max_tokens: 64 });
  let next = await said.next();
  for (; !next.done; next = await said.next()) process.stdout.write(next.value.index ? next.value.text : `\n${next.value.text}`);
  const { kernel, phi, kappa, phase, node } = next.value;
  console.log(`\n${kernel} · Φ ${phi} · κ ${kappa} ${phase} · ${node}`);
  client.close();
}
