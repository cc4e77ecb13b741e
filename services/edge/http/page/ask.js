// The question and its answer, by OpenAI's API of this edge: text as it is made, then the route and the state behind it.

import { byId, figure, make } from "./dom.js";

const ALL_FOUR = "all four";
const MODELS = {
  constellation: "the router’s choice",
  [ALL_FOUR]: "all four together",
  vocab: "vocab",
  strategy: "strategy",
  percept: "percept",
  heart: "heart",
};
const KEY = "qig-api-key";
const ECHO_MAX = 600; // of a longer text only the end stands before the answer
const P_LEAST = 0.001;
let leaving = null;
let textMax = Infinity; // characters of a query, as the API counts them, once the edge has told

export function startAsking(onAnswer) {
  byId("model").append(...Object.entries(MODELS).map(([value, text]) => make("option", { value }, text)));
  byId("key").value = sessionStorage.getItem(KEY) ?? "";
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    void ask(onAnswer);
  });
  byId("stop").addEventListener("click", () => leaving?.abort());
  byId("text").addEventListener("input", measure);
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
}

export function limitText(most) {
  textMax = most;
  measure();
}

// A text that is too long is told and kept whole: what is cut without a word is asked without its end.
function measure() {
  const length = [...byId("text").value].length;
  const wrong = length > textMax ? `${count(length)} characters: at most ${count(textMax)} can be asked. Shorten it.` : "";
  byId("text").setCustomValidity(wrong);
  byId("long").textContent = wrong;
  byId("long").hidden = !wrong;
}

function count(n) {
  return n.toLocaleString("en");
}

async function ask(onAnswer) {
  leaving = new AbortController();
  begin(byId("text").value);
  try {
    for await (const chunk of chunks(await post(leaving.signal))) {
      if (chunk.error) throw new Error(chunk.error.message);
      byId("answer").append(chunk.choices?.[0]?.text ?? "");
      if (chunk.constellation) {
        show(chunk.constellation);
        onAnswer(chunk.constellation);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error instanceof TypeError ? "this edge does not answer" : error.message);
  } finally {
    end();
  }
}

function begin(text) {
  byId("send").disabled = true;
  byId("stop").disabled = false;
  byId("said").hidden = false;
  byId("said").setAttribute("aria-busy", "true"); // read out when it is whole, not token after token
  byId("problem").hidden = byId("how").hidden = true;
  echo(text);
  byId("answer").textContent = "";
}

// The text before its answer; of a long one its end, and all of it folded.
function echo(text) {
  const long = text.length > ECHO_MAX;
  const [summary, whole] = byId("echo").children;
  byId("echo").hidden = !long;
  byId("echo").open = false;
  summary.textContent = long ? `All ${count([...text].length)} characters of the question` : "";
  whole.textContent = long ? text : "";
  byId("prompt").textContent = long ? `…${[...text.slice(-ECHO_MAX)].slice(-ECHO_MAX / 2).join("")}` : text;
}

function end() {
  byId("send").disabled = false;
  byId("stop").disabled = true;
  byId("said").setAttribute("aria-busy", "false");
}

function complain(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = false;
}

async function post(signal) {
  const key = byId("key").value;
  sessionStorage.setItem(KEY, key);
  const response = await fetch("/v1/completions", {
    method: "POST",
    signal,
    headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({
      ...(byId("model").value === ALL_FOUR ? { model: "constellation", mode: "constellation" } : { model: byId("model").value }),
      prompt: byId("text").value,
      max_tokens: Number(byId("tokens").value),
      stream: true,
    }),
  });
  if (response.ok) return response;
  if (response.status === 401) {
    byId("key-row").hidden = false;
    byId("key").focus();
    throw new Error(key ? "This edge does not know that key: put another in the field above." : "This edge asks for a key: put the key in the field above.");
  }
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error?.message ?? `this edge answered ${response.status}`);
}

async function* chunks(response) {
  let rest = "";
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + bytes).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function show(found) {
  byId("how").hidden = false;
  const steps = Object.entries(found.distances_rad);
  const farthest = Math.max(...Object.values(found.distances_rad), 1e-9);
  byId("route").replaceChildren(...steps.map(([domain, rad]) => bar(domain, rad, found, farthest)));
  byId("margin").textContent =
    found.margin_rad === null
      ? "There is one domain: no margin."
      : `Distance to the homes, nearest first; margin ${figure(found.margin_rad, 3)} rad` +
        (found.abstained ? ", too small to choose: the nearest two spoke together." : ".");
  const figures = {
    kernel: found.kernel ?? "none",
    phase: found.phase ?? "not known",
    Φ: integration(found.phi, found.phi_p),
    "Φ of all four": integration(found.constellation_phi, found.constellation_phi_p),
    κ: figure(found.kappa, 1),
    bundle: String(found.bundle),
    time: figure(found.seconds, 2, " s"),
  };
  const pairs = Object.entries(figures).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  byId("figures").replaceChildren(...pairs);
}

// With the probability of as much without any coupling, which is small and never 0.
function integration(phi, p) {
  if (p === null) return figure(phi);
  return `${figure(phi)} (p ${p < P_LEAST ? `< ${P_LEAST}` : `= ${figure(p, 3)}`})`;
}

function bar(domain, rad, found, farthest) {
  const chosen = domain === found.domain;
  const line = make("div", { className: `bar ${chosen ? found.kernel : ""}` });
  line.style.setProperty("--share", `${(100 * rad) / farthest}%`);
  const name = make("span", {}, domain);
  const length = make("span", { className: "n" }, figure(rad, 3, " rad"));
  return make("li", { className: chosen ? "chosen" : "" }, name, make("div", {}, line), length);
}
