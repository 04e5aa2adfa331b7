/* The demo shop: topics whose buttons send clicks, and the visitor's list, which follows them. */
"use strict";

// Topic, and what its page is called in the tags of clicks.
const TOPICS = [
  ["Home", "home"], ["Car", "car"], ["Dog and cat", "pets"], ["Health", "health"], ["Family and future", "future"], ["Person", "person"],
  ["Travel", "away"], ["Leisure", "leisure"], ["Driver", "driver"], ["Repair", "repair"], ["Mobility", "mobility"], ["Online", "online"],
];
const ACTIONS = [
  ["Look at the cover", (page) => ["products", `${page}-cover`, "select"]],
  ["Calculate a price", (page) => ["price", `${page}-price`, "calculate"]],
];
const PATIENCE_MS = 2000;
let before = new Map(); // item -> rank in the list that is shown
let clickedAt = null;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function topic([title, page]) {
  const buttons = ACTIONS.map(([label, tags]) => {
    const button = element("button", { type: "button", textContent: label });
    button.setAttribute("aria-label", `${title}: ${label}`);
    button.addEventListener("click", () => click(tags(page)));
    return button;
  });
  return element("li", { className: "card" }, element("h2", { textContent: title }), ...buttons);
}

function invite() {
  say(isthmus.allowed() ? "Click something." : "Allow it below, and the list follows your clicks.");
}

function click(tags) {
  if (!isthmus.allowed()) return invite();
  clickedAt = performance.now();
  isthmus.click(tags);
  say("Sent. Waiting for the new list …");
  setTimeout(() => { if (clickedAt !== null) { clickedAt = null; say("This click did not change the list."); } }, PATIENCE_MS);
}

function say(text) {
  document.getElementById("latency").textContent = text;
}

function show(list) {
  if (!list) return clear();
  const ranks = new Map(list.items.map((entry, index) => [entry.item, index + 1]));
  document.getElementById("list").replaceChildren(...list.items.map((entry) => row(entry, ranks.get(entry.item), list)));
  document.getElementById("basis").textContent = basis(list);
  before = ranks;
  if (document.visibilityState === "visible") isthmus.shown(list);
  if (clickedAt !== null) say(`The list followed your click in ${Math.round(performance.now() - clickedAt)} ms.`);
  clickedAt = null;
}

function clear() {
  document.getElementById("list").replaceChildren();
  document.getElementById("basis").textContent = "";
  before = new Map();
}

function row(entry, rank, list) {
  const former = before.get(entry.item);
  const move = !before.size || former === rank ? "" : former === undefined ? "new" : former > rank ? `up from ${former}` : `down from ${former}`;
  const name = element("button", { type: "button", className: "name", textContent: entry.name || entry.item });
  name.addEventListener("click", () => { isthmus.selected(entry.item, list); say(`Isthmus knows that you chose ${name.textContent}.`); });
  const made = element("li", {}, name, element("span", { className: "move", textContent: move }));
  made.classList.toggle("moved", move !== "" && !move.startsWith("down"));
  return made;
}

function basis(list) {
  if (list.fallback === "catalogue") return "In the catalogue's order: no model is trained yet. The demo trains one within a minute.";
  if (list.fallback) return "What others buy most, until you click.";
  const sessions = list.modalities?.session || 0;
  return `From ${sessions} ${sessions === 1 ? "visit" : "visits"} of yours, by ${list.model?.name || "a model"} ${list.model?.version || ""}.`;
}

document.getElementById("topics").append(...TOPICS.map(topic));
const consent = document.getElementById("consent");
consent.checked = isthmus.allowed();
consent.addEventListener("change", () => {
  if (isthmus.consent(consent.checked) !== consent.checked) say("Your browser asks sites not to track you, so nothing is sent.");
  else if (consent.checked) invite();
  else say("Forgotten on this computer; nothing more is sent.");
});
invite();
isthmus.recommendations("shop", show);
