/* The live page: what comes on its stream, shown as text and on the map. Whatever producers wrote is set as text alone. */
import { SpaceMap } from "./live-map.js";
import { when } from "./times.js";

const LONGEST_PAUSE_MS = 15000, QUIET_MS = 9000, ROWS = 9, STEPS = 4, FEW = 100, AVERAGED = 10; // frames, two a second
const REASONS = {
  empty: "empty", not_json: "no JSON", invalid: "fields missing or wrong", missing_key: "without a key", key_mismatch: "key and user differ", wrong_partition: "in the wrong partition",
  too_far_ahead: "from the future", implausible_time: "time implausible", mapping: "refused by the mapping", poison: "made the step fail", unreadable: "unreadable",
  undelivered: "not delivered", undecodable: "schema does not fit", unknown_schema: "schema unknown",
};
const KINDS = { click: "Click", call: "Call", purchase: "Bought" };
const $ = (id) => document.getElementById(id);
const locale = (value, digits = 0) => Number(value).toLocaleString("en", { maximumFractionDigits: digits });

const SOON = "The first model that is trained on what customers did draws them here, each close to what it expects the customer to buy.";

let key = document.querySelector('meta[name="isthmus-key"]').content;
const isDemo = key !== "";
let picked = { user: "", byHand: false, changedAt: 0 };
let ranks = new Map();
let model = null;
let paused = false;
let stream = null;
let applied = 0; // events a second
const rates = []; // of the last frames
const shownAt = { click: 0, call: 0, purchase: 0 };

const map = new SpaceMap($("map"), (user) => pick(user, true));

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// The stream

function say(text, kind = "") {
  $("state").textContent = text;
  $("state").className = `state ${kind}`;
}

/** Follows the stream until it ends; `fetch` and not EventSource, so that the key is a header. */
async function follow(signal) {
  const query = picked.user ? `?user=${encodeURIComponent(picked.user)}` : "";
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(`/v1/live/events${query}`, { headers, signal, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) { askForKey(answer.status); return false; }
  if (!answer.ok) throw new Error((await answer.json()).detail || answer.status);
  say("Live", "live");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return true;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    events.forEach(take);
  }
}

function take(event) {
  const found = /^event: (\w+)\ndata: (.*)$/.exec(event);
  const isFirstOfPick = found?.[1] === "followed" && !ranks.size;
  if (!found || (paused && !isFirstOfPick)) return;
  ({ picture: showPicture, frame: showFrame, numbers: showNumbers, followed: showFollowed })[found[1]]?.(JSON.parse(found[2]));
}

async function keepFollowing() {
  let pause = 500;
  for (;;) {
    const mine = stream = new AbortController();
    try {
      if (await follow(mine.signal) === false) return;
      pause = 500;
    } catch (error) {
      if (mine.signal.aborted) continue; // another user is followed now
      say(`${error.message || "The API is away"}; trying again`, "away");
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

function askForKey(status) {
  say(status === 403 ? "This key lacks the scope live" : "A key is needed", "away");
  showForm(true);
  $("key").focus();
}

function showForm(needed) {
  $("key-form").hidden = !needed;
  document.querySelector("main").hidden = $("pause").hidden = needed;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  showForm(false);
  keepFollowing();
});

// 1 and 2: events, and the map

function showPicture(picture) {
  if (model && model.version !== picture.version && picture.model) $("said").textContent = `${picture.model} ${picture.version} serves now`;
  model = picture;
  map.show(picture);
  $("no-map").hidden = picture.items.length > 0;
  $("no-map").textContent = picture.model === ""
    ? `No model is trained yet, so lists follow the catalogue’s order. ${SOON}`
    : `${picture.model} ranks by popularity alone and knows no space. ${SOON}`;
  showModel();
}

function showFrame(frame) {
  map.remove(frame.gone);
  map.add(frame.dots);
  showRates(frame.per_s);
  if (frame.freshness_ms !== null) $("freshness").textContent = frame.freshness_ms < 10000 ? `${locale(frame.freshness_ms)} ms` : `${locale(frame.freshness_ms / 1000)} s`;
  $("lists").textContent = `${locale(frame.lists_per_s)} new lists a second`;
  const next = frame.happened.reduce((best, one) => best && shownAt[best.kind] <= shownAt[one.kind] ? best : one, null);
  if (next && !$("happened").matches(":hover, :focus-within")) showHappened(next);
  if (frame.gone.includes(picked.user)) pick("", false);
  choose(frame);
  showModel(frame.now);
}

/** Averages over some seconds: calls are few, and would be none in most frames. */
function showRates(perS) {
  rates.push(perS);
  if (rates.length > AVERAGED) rates.shift();
  applied = 0;
  for (const kind of Object.keys(KINDS)) {
    const rate = rates.reduce((sum, one) => sum + (one[kind] ?? 0), 0) / rates.length;
    applied += rate;
    $(`rate-${kind}`).textContent = locale(rate, rate < 10 ? 1 : 0);
  }
}

/** One event a frame, of the kind that was not seen for longest: more cannot be read. */
function showHappened(one) {
  shownAt[one.kind] = performance.now();
  const who = element("button", { type: "button", textContent: one.user });
  who.setAttribute("aria-label", `Follow ${one.user}`);
  who.addEventListener("click", () => pick(one.user, true));
  const words = element("span", { className: "words", textContent: wording(one) });
  $("happened").prepend(element("li", { className: one.kind }, element("strong", { textContent: `${KINDS[one.kind]} ` }), words, who));
  while ($("happened").children.length > ROWS) $("happened").lastChild.remove();
}

function wording(one) {
  if (one.kind === "purchase") return one.what.slice(0, 2).join(", ") + (one.what.length > 2 ? ` and ${one.what.length - 2} more` : "");
  const what = one.what.join(" · ");
  if (one.kind === "call") return what ? `keywords: ${what}` : "without a listed keyword";
  return what || "without a tag";
}

// 3: one customer

/** Without a choice by hand, whoever has clicks and calls and is active. */
function choose(frame) {
  if (picked.byHand || (picked.user && performance.now() - picked.changedAt < QUIET_MS)) return;
  const fits = frame.dots.filter((dot) => dot.sessions && dot.conversations && dot.by !== "purchase" && dot.user !== picked.user);
  const found = fits.sort((one, other) => other.sessions + other.conversations - one.sessions - one.conversations)[0] ?? (picked.user ? undefined : frame.dots.at(-1));
  const user = found?.user ?? (picked.user ? "" : frame.happened[0]?.user);
  if (user) pick(user, false);
}

function pick(user, byHand) {
  picked = { user, byHand, changedAt: performance.now() };
  ranks = new Map();
  map.pick(user);
  $("who").textContent = !user ? "Nobody yet" : user === visitor() ? "You, in the shop" : user;
  $("known").textContent = "";
  $("list").replaceChildren();
  $("steps").replaceChildren();
  $("basis").textContent = "";
  stream?.abort();
}

function showFollowed(followed) {
  if (followed.user !== picked.user) return;
  const items = followed.list.items.map((entry) => entry.item);
  const isNew = items.some((item, index) => ranks.get(item) !== index + 1);
  if (isNew && ranks.size && followed.list.items.length) $("said").textContent = `New list: ${followed.list.items[0].name || items[0]} first`;
  if (isNew || !ranks.size) $("list").replaceChildren(...followed.list.items.map(row));
  if (isNew) ranks = new Map(items.map((item, index) => [item, index + 1]));
  picked.changedAt = performance.now();
  $("known").textContent = known(followed.steps);
  $("basis").textContent = basis(followed.list);
  $("steps").replaceChildren(...followed.steps.slice(-STEPS).reverse().map(step));
  const way = followed.steps.filter((one) => one.place).map((one) => ({ kind: one.kind, place: one.place }));
  map.pick(followed.user, items.slice(0, 3), followed.start ? [{ kind: "start", place: followed.start }, ...way] : []);
}

function row(entry, index) {
  const former = ranks.get(entry.item), rank = index + 1;
  const move = !ranks.size || former === rank ? "" : former === undefined ? "new" : former > rank ? `up from ${former}` : `down from ${former}`;
  const made = element("li", {}, element("span", { className: "name", textContent: entry.name || entry.item }), element("span", { className: "move", textContent: move }));
  if (entry.score !== undefined) {
    const bar = element("span", { className: "score" });
    bar.style.width = `${Math.round(100 * Math.min(1, Math.max(0, entry.score)))}%`;
    made.append(bar);
  }
  made.classList.toggle("moved", move !== "" && !move.startsWith("down"));
  return made;
}

function known(steps) {
  const count = (kind, one, many) => {
    const found = steps.filter((step) => step.kind === kind).length;
    return found ? `${found} ${found === 1 ? one : many}` : "";
  };
  return [count("click", "visit", "visits"), count("call", "call", "calls"), count("purchase", "purchase", "purchases")].filter(Boolean).join(", ");
}

function basis(list) {
  if (list.fallback === "catalogue") return "In the catalogue’s order.";
  if (list.fallback === "popularity") return "What is most popular, as nothing is known that the model reads.";
  return `Ranked by ${list.model?.name ?? "a model"} ${list.model?.version ?? ""}; the lines show how sure it is.`;
}

function step(one) {
  const count = one.kind === "click" ? `${one.count} ${one.count === 1 ? "click" : "clicks"}: ` : one.kind === "call" ? `${one.count} ${one.count === 1 ? "sentence" : "sentences"}, ` : "";
  const words = element("span", { className: "words", textContent: count + wording(one) });
  const at = element("time", { dateTime: new Date(one.at).toISOString(), textContent: when(one.at) });
  const made = element("li", { className: one.kind }, element("strong", { textContent: `${one.kind === "click" ? "Visit" : KINDS[one.kind]} ` }), at, element("br", {}), words);
  for (const move of one.rose) made.append(element("span", { className: "effect", textContent: `→ ${move.name} rose from ${move.before} to ${move.after}` }));
  return made;
}

// 4: numbers

function showModel(now) {
  if (!model) return;
  $("model").textContent = model.model ? `${model.model} ${model.version}` : "none yet";
  const minutes = model.published_at && now ? (now - model.published_at) / 60000 : null;
  model.age = minutes === null ? model.age ?? "" : minutes < 1 ? "less than a minute old" : minutes < 90 ? `${locale(minutes)} min old` : minutes < 2880 ? `${locale(minutes / 60)} h old` : `${locale(minutes / 1440)} days old`;
  $("model-note").textContent = [model.age, model.swaps].filter(Boolean).join(", ");
}

function showNumbers(numbers) {
  if (model) model.swaps = `${locale(numbers.swaps)} ${numbers.swaps === 1 ? "swap" : "swaps"}`;
  showModel();
  const lag = Object.entries(numbers.lag), waiting = lag.reduce((sum, [, records]) => sum + records, 0);
  $("lag").textContent = locale(waiting);
  $("lag-note").textContent = waiting && applied ? `as many as come in ${waiting / applied < 0.1 ? "less than 0.1" : locale(waiting / applied, 1)} s` : `in ${lag.length} topics`;
  const dead = Object.entries(numbers.dead_letters);
  $("dead").textContent = locale(dead.reduce((sum, [, count]) => sum + count, 0));
  $("dead-note").textContent = dead.map(([reason, count]) => `${REASONS[reason] ?? reason}: ${locale(count)}`).join(", ") + (isDemo && dead.length ? " (the demo plants some)" : "");
  if (numbers.answered < numbers.asked) $("lag-note").textContent += `; ${numbers.answered} of ${numbers.asked} processes answer`;
  showQuality(numbers.quality);
}

function showQuality(quality) {
  const judged = quality.filter((one) => one.name !== "popular");
  const current = judged.find((one) => one.version === model?.version) ?? judged.at(-1);
  if (!current) return;
  const bars = [
    [`${current.name || "model"} ${current.version}`, current.hits / current.purchases, "ours"],
    ["popularity", current.popularity_hits / current.purchases, ""],
  ];
  $("quality").replaceChildren(...bars.map(([name, share, kind]) => {
    const bar = element("span", { className: "bar" }), rest = element("span", { className: "rest" }, bar);
    bar.style.display = "block";
    bar.style.width = `${Math.round(100 * share)}%`;
    return element("li", { className: kind }, element("span", { textContent: name }), rest, element("span", { className: "share", textContent: `${Math.round(100 * share)} %` }));
  }));
  const few = current.purchases < FEW ? " That is too few to compare." : "";
  $("quality-note").textContent = `Both on the same ${locale(current.purchases)} purchases since this version serves.${few}` + (isDemo ? " The demo’s customers are synthetic and do not react to lists." : "");
}

// Controls

$("pause").addEventListener("click", () => {
  paused = !paused;
  map.freeze(paused);
  $("pause").textContent = paused ? "Go on" : "Pause";
  say(paused ? "Paused" : "Live", paused ? "" : "live");
});
$("another").addEventListener("click", () => pick("", false));
$("me").addEventListener("click", () => pick(visitor(), true));

/** The anonymous customer that the demo's shop made in this browser. */
function visitor() {
  try { return localStorage.getItem("isthmus.visitor") ?? ""; } catch { return ""; }
}

if (isDemo) {
  $("demo").hidden = $("demo-clock").hidden = false;
  const look = () => { $("me").hidden = !visitor(); };
  addEventListener("storage", look);
  addEventListener("focus", look);
  look();
}
keepFollowing();
