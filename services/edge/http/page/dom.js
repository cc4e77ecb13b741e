// Making elements and showing figures; no markup is ever parsed, so what others wrote stays text.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

export function make(name, fields = {}, ...children) {
  const made = document.createElement(name);
  for (const [field, value] of Object.entries(fields)) made[field] = value;
  made.append(...children);
  return made;
}

export function draw(name, fields, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [field, value] of Object.entries(fields)) made.setAttribute(field, value);
  made.append(...children);
  return made;
}

export function row(...cells) {
  return make("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : make("td", { className: "n" }, cell))));
}

export function word(text, className = "") {
  return make("td", { className }, text);
}

// A figure in a table: a dash, which takes less room than words, until it is known.
export function cell(value, digits, title) {
  const known = value !== null && value !== undefined;
  return make("td", { className: "n", title: known ? "" : title }, known ? value.toFixed(digits) : "–");
}

export function figure(value, digits = 2, unit = "") {
  return value === null || value === undefined ? "not known" : value.toFixed(digits) + unit;
}

export function ago(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

export function size(bytes) {
  return bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(1)} KB`;
}
