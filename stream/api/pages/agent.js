/* The page of agents: finds a customer, shows who he is to Isthmus and what to offer, and says how he answered.
 *
 * What producers wrote (ids, names, tags) is shown as text alone. A user id is in no URL: it travels in bodies.
 */
import { LogInError, comeBack, enterDemo, forget, leave, logOut, obstacle, settings, token } from "./agent-login.js";
import { ACTIONS, basis, count, lasted, name, reason } from "./agent-words.js";
import { dayOf, timeOf, when } from "./times.js";

const PLACEMENT = "agent", CHANNEL = "phone", RESERVE = 3, PAUSES_MS = [400, 1600, 5000];
const BUTTONS = [["accepted", "Accepted"], ["rejected", "Rejected"], ["dismissed", "Not now"]];
const at = (id) => document.getElementById(id);

let current = null; // {id, list, profile, items, answered}: the customer on the page
let lookups = 0; // the last one is shown, whichever answer comes last
const answeredOf = new Map(); // user id -> items answered since this page was opened: they stay away from its lists

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text) {
  at("warn").textContent = "";
  at("say").textContent = text;
}

function warn(text) {
  at("say").textContent = "";
  at("warn").textContent = text;
}

/** An answer of the API that is no success; `text` is for people. */
class Refused extends Error {
  constructor(text, isFinal) {
    super(text);
    this.isFinal = isFinal;
  }
}

async function request(path, body, keepalive = false) {
  const bearer = await token();
  if (bearer === null) throw new LogInError("Your log-in has ended.");
  const headers = { Authorization: `Bearer ${bearer}`, "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(body), credentials: "omit", cache: "no-store", keepalive };
  const answer = await fetch(path, options).catch(() => null);
  if (answer === null) throw new Refused("The API cannot be reached.", false);
  if (answer.ok) return answer.json();
  if (answer.status === 401) throw new LogInError("Your log-in has ended.");
  const { detail } = await answer.json().catch(() => ({}));
  const isFinal = answer.status < 500 && answer.status !== 429;
  throw new Refused(answer.status === 403 ? "You may not do this here: your account lacks the right." : detail || `The API answered ${answer.status}.`, isFinal);
}

// The customer.

async function find(id) {
  const lookup = lookups += 1;
  say("Looking …");
  try {
    const limit = Math.min(100, settings.length * (1 + RESERVE));
    const { list, profile } = await request("/v1/profiles", { user_id: id, limit, placement: PLACEMENT });
    if (lookup !== lookups) return;
    if (!answeredOf.has(id)) answeredOf.set(id, new Set());
    const gone = answeredOf.get(id);
    current = { id, list, profile, items: list.items.filter((entry) => !gone.has(entry.item)), answered: [] };
    show();
    say("");
    at("customer-title").focus();
  } catch (error) {
    if (lookup === lookups) fail(error);
  }
}

function fail(error, before = "") {
  if (error instanceof LogInError) return loggedOut(`${before}${error.message} Log in again.`);
  if (!(error instanceof Refused)) throw error;
  warn(before + error.message);
}

function show() {
  const { id, profile } = current;
  at("customer").hidden = false;
  at("customer-title").textContent = `Customer ${id}`;
  const owned = profile?.owned_items || [];
  at("unknown").hidden = Boolean(profile);
  at("owned-box").hidden = !owned.length;
  at("owned").replaceChildren(...owned.map((item) => element("li", { textContent: name(item) })));
  showPast(profile);
  showOffers();
  shown();
}

function facts({ profile, answered }) {
  if (!profile) return [];
  const { feedback } = profile;
  const total = (kind) => (feedback?.[kind] || 0) + answered.filter(({ action }) => action === kind).length;
  const answers = ["accepted", "rejected"].filter(total).map((kind) => `${total(kind)} ${kind}`);
  return [
    ["Website visits", profile.modalities.session.toLocaleString("en-GB")],
    ["Calls", profile.modalities.conversation.toLocaleString("en-GB")],
    ["Purchases", profile.purchases.toLocaleString("en-GB")],
    ["Offers so far", [feedback?.items ? count(feedback.items, "item") : "", ...answers].filter(Boolean).join(", ") || "none"],
    ["Last seen", profile.newest_at ? when(profile.newest_at) : "never"],
  ];
}

// The offers.

function showOffers() {
  at("facts").replaceChildren(...facts(current).map(([term, text]) => element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: text }))));
  const items = current.items.slice(0, settings.length);
  at("basis").textContent = basis(current.list);
  at("offers").replaceChildren(...items.map(offer));
  if (!items.length) at("offers").append(element("li", { className: "none", textContent: "Nothing is left to offer." }));
  at("answered-box").hidden = !current.answered.length;
  at("answered").replaceChildren(...current.answered.map(({ entry, action }) => element("li", { textContent: `${name(entry)}: ${ACTIONS[action].toLowerCase()}` })));
}

function offer(entry) {
  const buttons = BUTTONS.map(([action, label]) => {
    const button = element("button", { type: "button", className: action, textContent: label });
    button.setAttribute("aria-label", `${label}: ${name(entry)}`);
    button.addEventListener("click", ({ detail }) => { if (detail < 2) answer(entry, action); }); // a double click is one answer
    return button;
  });
  const text = reason(entry, current.list, current.items[0], current.profile);
  return element("li", { className: "offer" },
    element("div", { className: "offer-text" }, element("h3", { textContent: name(entry) }), ...(text ? [element("p", { className: "note", textContent: text })] : [])),
    element("div", { className: "answers" }, ...buttons));
}

/** Takes an item off the list at once, lets the reserve fill its place, and says so to the API. */
async function answer(entry, action) {
  const customer = current, index = customer.items.indexOf(entry), next = customer.items[settings.length];
  customer.items.splice(index, 1);
  customer.answered.push({ entry, action });
  answeredOf.get(customer.id).add(entry.item);
  showOffers();
  focusOffer(index, action);
  say(`${name(entry)}: ${ACTIONS[action].toLowerCase()}.${next ? ` ${name(next)} fills its place.` : ""}`);
  try {
    await report(customer, action, [entry.item]);
    if (current === customer) shown();
  } catch (error) {
    customer.items.splice(index, 0, entry);
    customer.answered = customer.answered.filter((one) => one.entry !== entry);
    answeredOf.get(customer.id).delete(entry.item);
    if (current === customer) showOffers();
    fail(error, `“${name(entry)}” was not noted as ${ACTIONS[action].toLowerCase()}. `);
  }
}

/** The next offer's button of the same kind, so that the keyboard goes on where it was. */
function focusOffer(index, action) {
  const rows = [...document.querySelectorAll("#offers .offer")];
  const row = rows[Math.min(index, rows.length - 1)];
  (row?.querySelector(`.${action}`) || at("offers-title")).focus();
}

/** Says what is in sight, in order: answers and purchases then count for the model and the place that showed the item. */
function shown() {
  const items = current.items.slice(0, settings.length).map((entry) => entry.item);
  if (items.length) report(current, "shown", items).catch(() => {}); // only a count: no reason to disturb a call
}

/** Sends feedback. Its id makes it count once, however often it is sent. */
async function report({ id, list }, action, items) {
  const { served_id, recommendation_id, model } = list;
  const event = {
    event_id: crypto.randomUUID(), user_id: id, occurred_at: Date.now(), channel: CHANNEL, placement: PLACEMENT, action, items,
    ...(served_id ? { served_id } : { recommendation_id }), ...(model ? { model_version: model.version } : {}),
  };
  for (const pause of [...PAUSES_MS, null]) {
    try {
      return await request("/v1/feedback", { events: [event], sent_at: Date.now() }, true);
    } catch (error) {
      if (pause === null || error instanceof LogInError || error.isFinal) throw error;
      await new Promise((done) => setTimeout(done, pause));
    }
  }
}

// What happened.

function showPast(profile) {
  const entries = past(profile);
  at("past-note").textContent = entries.length ? "Newest first, as far as Isthmus keeps it." : "Nothing that is kept.";
  const rows = [];
  let said = "";
  for (const entry of entries) {
    const date = dayOf(entry.ms);
    rows.push(row(entry, date === said ? "" : date));
    said = date;
  }
  at("past").replaceChildren(...rows);
}

function past(profile) {
  if (!profile) return [];
  const interactions = (profile.last_interactions || []).map((one) => (one.modality === "session" ? visit(one) : call(one)));
  const purchases = (profile.last_purchases || []).map((one) => ({ ms: one.occurred_at, kind: "purchase", title: `${ACTIONS[one.action]} ${one.items.map(name).join(", ")}` }));
  const answers = (profile.last_answers || []).map((one) => ({ ms: one.occurred_at, kind: "answer", title: `${ACTIONS[one.action]}: ${name(one.item)}` }));
  return [...interactions, ...purchases, ...answers].sort((one, other) => other.ms - one.ms);
}

function visit({ started_at, ended_at, clicks, newest_clicks = [] }) {
  const took = lasted(started_at, ended_at);
  return { ms: started_at, kind: "session", title: "Website visit", text: [count(clicks, "click"), took].filter(Boolean).join(", "), clicks: newest_clicks };
}

function call({ started_at, ended_at, sentences }) {
  const took = lasted(started_at, ended_at);
  return { ms: started_at, kind: "conversation", title: "Call", text: [took, count(sentences, "sentence")].filter(Boolean).join(", ") };
}

function row({ ms, kind, title, text, clicks = [] }, date) {
  const made = element("li", { className: kind }, element("p", { className: "moment" }, element("span", { className: "day", textContent: date }), element("time", { dateTime: new Date(ms).toISOString(), textContent: timeOf(ms) })));
  const body = element("div", {}, element("p", { className: "what", textContent: title }));
  if (text) body.append(element("p", { className: "note", textContent: text }));
  if (clicks.length) body.append(element("ol", { className: "clicks" }, ...clicks.map(({ occurred_at, tags }) => element("li", {}, element("time", { dateTime: new Date(occurred_at).toISOString(), textContent: timeOf(occurred_at) }), ` ${tags.join(" · ")}`))));
  made.append(body);
  return made;
}

// Logging in and out.

function loggedIn({ agent, examples = [] }) {
  at("log-in").hidden = true;
  at("find").hidden = at("logged-in").hidden = false;
  at("agent").textContent = agent;
  at("log-out").hidden = settings.is_demo === true;
  at("demo").hidden = at("demo-clock").hidden = settings.is_demo !== true;
  at("examples").hidden = !examples.length;
  at("examples").append(...examples.map(example));
  say("");
  at("user").focus();
}

function example(id) {
  const button = element("button", { type: "button", textContent: id });
  button.addEventListener("click", () => { at("user").value = id; find(id); });
  return button;
}

function loggedOut(text = "") {
  forget();
  close();
  at("log-in").hidden = false;
  at("find").hidden = at("logged-in").hidden = at("examples").hidden = true;
  if (text) warn(text);
  at("log-in-button").focus();
}

function close() {
  current = null;
  lookups += 1; // what is still asked for is not shown
  at("customer").hidden = true;
  for (const id of ["customer-title", "facts", "owned", "basis", "offers", "answered", "past"]) at(id).replaceChildren();
  at("user").value = "";
}

async function begin() {
  const problem = obstacle();
  if (problem) {
    at("log-in").hidden = false;
    at("log-in-button").hidden = true;
    at("log-in-text").textContent = problem;
    return;
  }
  try {
    const entered = settings.is_demo ? await enterDemo() : await comeBack();
    if (entered === null) loggedOut();
    else loggedIn(entered);
  } catch (error) {
    loggedOut(error instanceof LogInError ? error.message : "The log-in failed. Try again.");
  }
}

at("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = at("user").value.trim();
  if (id) find(id);
});
at("log-in-button").addEventListener("click", () => leave());
at("log-out").addEventListener("click", () => { logOut(); loggedOut(); });
at("again").addEventListener("click", () => find(current.id));
at("close").addEventListener("click", () => { close(); say(""); at("user").focus(); });
begin();
