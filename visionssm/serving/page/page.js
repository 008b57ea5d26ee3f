"use strict";
// Whatever comes from the server or from a file is shown as text, never as HTML.
const at = (id) => document.getElementById(id);
let chosen = null; // the file in use
let asked = 0; // number of the newest request: answers to older ones are not shown

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function shown(value) {
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(4);
  if (Array.isArray(value)) return value.map(shown).join(", ");
  if (value !== null && typeof value === "object")
    return Object.entries(value).map(([name, x]) => `${name} ${shown(x)}`).join(", ");
  return String(value);
}

function say(text, isError = false) {
  at("state").textContent = text;
  at("state").className = isError ? "error" : "";
}

function showTable(columns, rows) {
  const [head, body] = at("table").children;
  const line = document.createElement("tr");
  line.append(...columns.map((name) => element("th", name)));
  head.replaceChildren(line);
  body.replaceChildren(...rows.map((row) => {
    const made = document.createElement("tr");
    made.append(...row.map((value) => element("td", shown(value))));
    return made;
  }));
  at("table").hidden = rows.length === 0;
}

function showPictures(addresses) {
  at("pictures").replaceChildren(...addresses.map((address) => {
    const image = new Image();
    image.src = address;
    image.alt = "what was found";
    return image;
  }));
}

async function predict() {
  if (chosen === null) return;
  const number = ++asked;
  say("The model looks at it …");
  const form = new FormData();
  form.append("file", chosen, chosen.name);
  const explain = at("explain").checked;
  let answer, ok;
  try {
    const response = await fetch(`predict?pictures=true&explain=${explain}`, { method: "POST", body: form });
    ok = response.ok;
    answer = await response.json();
  } catch (error) {
    [ok, answer] = [false, { detail: "the server does not answer" }];
  }
  if (number !== asked) return;
  showTable(ok ? answer.columns : [], ok ? answer.rows : []);
  showPictures(ok ? answer.pictures : []);
  const times = ok ? Object.entries(answer.milliseconds) : [];
  at("time").textContent = times.map(([name, x]) => `${name} ${x.toFixed(1)} ms`).join(", ");
  at("note").textContent = ok ? answer.note : "";
  if (!ok) return say(answer.detail, true);
  say(answer.rows.length ? `${chosen.name}:` : `${chosen.name}: nothing was found.`);
}

function choose(file) {
  chosen = file;
  const preview = at("given");
  URL.revokeObjectURL(preview.src);
  preview.onload = () => { preview.hidden = false; };
  preview.onerror = () => { preview.hidden = true; };
  preview.src = URL.createObjectURL(file);
  predict();
}

async function start() {
  const card = await (await fetch("model")).json();
  at("name").textContent = card.model;
  document.title = `visionssm: ${card.model}`;
  at("explains").hidden = !card.explains;
  for (const [name, value] of Object.entries(card)) {
    if (name !== "explains") at("card").append(element("dt", name), element("dd", shown(value)));
  }
  (await (await fetch("examples")).json()).forEach((name, number) => {
    const button = element("button", name);
    button.addEventListener("click", async () => {
      choose(new File([await (await fetch(`examples/${number}`)).blob()], name));
    });
    at("examples").append(button);
  });
}

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) choose(event.target.files[0]);
});
at("explain").addEventListener("change", predict);
const drop = at("drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
drop.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
});
start().catch(() => say("the server does not answer", true));
