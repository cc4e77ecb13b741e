// What test_clients.py asks of docs/examples/node/client.mjs: `node clients.mjs WHAT BROKER NAME QUERY`; says one JSON line.

import { Client } from "./client.mjs";

const [what, url, name, query] = process.argv.slice(2);
const client = await Client.connect(url, name);
const wishes = JSON.parse(query);

const scenes = {
  ask: async () => ({ answer: await client.ask(wishes) }),

  stream: async () => {
    const said = client.stream(wishes);
    const pieces = [];
    let next = await said.next();
    for (; !next.done; next = await said.next()) pieces.push(next.value);
    return { pieces, answer: next.value };
  },

  leave: async () => {
    for await (const piece of client.stream(wishes)) return { pieces: [piece] };
  },
};

let told;
try {
  told = await scenes[what]();
} catch (problem) {
  told = { code: problem.code, message: problem.message };
}
console.log(JSON.stringify(told));
client.close();
