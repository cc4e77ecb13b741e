// OpenAI's own client for Node against an edge: node client.mjs BASE_URL KEY; one line of JSON with what it saw.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const asked = { model: "constellation", messages: [{ role: "user", content: "The king spake" }], max_tokens: 5, seed: 1 };

const whole = await client.chat.completions.create(asked);
let streamed = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const embedding = await client.embeddings.create({ model: "constellation", input: "The king spake" });
const models = await client.models.list();
let error = null;
try {
  await client.chat.completions.create({ ...asked, model: "gpt-9" });
} catch (raised) {
  error = { kind: raised.constructor.name, status: raised.status, code: raised.code };
}
console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    kernel: whole.constellation.kernel,
    request: whole._request_id,
    streamed,
    usage,
    dimensions: embedding.data[0].embedding.length,
    models: models.data.map((model) => model.id),
    error,
  }),
);
