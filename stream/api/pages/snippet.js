/* Isthmus for web pages: sends what a visitor does, and keeps the visitor's recommendations up to date.
 *
 *   <script src="https://isthmus.example/snippet.js" data-key="isk_..." defer></script>
 *
 * `data-key` is a key with the scope `public`. `data-api` is the API's address, if it is not the script's own.
 * Nothing is stored or sent before `isthmus.consent(true)`, or if the browser asks not to be tracked.
 */
"use strict";
(() => {
  const script = document.currentScript;
  const api = new URL(script.dataset.api || script.src, location.href).origin;
  const KEY = script.dataset.key;
  const EVENT = "isthmus.event.", VISITOR = "isthmus.visitor", CONSENT = "isthmus.consent";
  const BATCH = 50, SOON_MS = 50, FIRST_PAUSE_MS = 500, LONGEST_PAUSE_MS = 60000, EARLY_MS = 30000;
  const BEACON_BYTES = 65536;

  const objects = navigator.globalPrivacyControl === true || navigator.doNotTrack === "1";
  const lists = new Set(); // {placement, onChange}: what `recommendations` was asked for
  let following = null; // the AbortController of the one stream that runs for all of them
  let newest = null; // {of, id, data}: the newest list, and whose it is
  let named = null; // {id, token()}: the user whom the site named
  let token = null; // {of, value, ends}: the newest user token, in memory only
  let asking = null; // the request for a token, while it runs, of the user who is named then
  const beaconed = new Set(); // events that a beacon took, until the page is seen again
  let pause = 0, timer = null, sending = false;

  // Storage that may be missing or full: then events live as long as the page.
  const memory = new Map();
  const store = {
    get: (name) => { try { return localStorage.getItem(name) ?? memory.get(name) ?? null; } catch { return memory.get(name) ?? null; } },
    set: (name, value) => { try { localStorage.setItem(name, value); } catch { memory.set(name, value); } },
    drop: (name) => { memory.delete(name); try { localStorage.removeItem(name); } catch { /* nothing was stored */ } },
    names: () => { try { return [...Object.keys(localStorage), ...memory.keys()]; } catch { return [...memory.keys()]; } },
  };

  const allowed = () => !objects && store.get(CONSENT) === "yes";
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const grown = (ms) => Math.min(LONGEST_PAUSE_MS, ms ? ms * 2 : FIRST_PAUSE_MS) * (0.75 + Math.random() / 2);

  async function request(path, options, bearer) {
    const headers = { Authorization: `Bearer ${bearer}`, ...options.headers };
    if (options.body) headers["Content-Type"] = "application/json";
    return fetch(api + path, { credentials: "omit", ...options, headers });
  }

  // The user of this page and a live token: the named user, or an anonymous visitor, who gets an id from the API.
  async function identity() {
    const of = named ? named.id : store.get(VISITOR);
    if (token && token.of === of && token.ends - EARLY_MS > Date.now()) return token;
    const whom = named;
    const asked = asking ??= (whom ? namedToken(whom) : visitorToken(of)).finally(() => { if (asking === asked) asking = null; });
    const made = await asked;
    if (named !== whom) return identity(); // another user was named meanwhile
    token = made;
    return token;
  }

  async function namedToken(user) {
    const issued = await user.token();
    if (typeof issued?.token !== "string" || !Number.isFinite(issued.expires_at)) throw new Error("getToken gave no {token, expires_at}");
    return { of: user.id, value: issued.token, ends: issued.expires_at };
  }

  async function visitorToken(id) {
    const answer = await request("/v1/visitors", { method: "POST", body: JSON.stringify(id ? { user_id: id } : {}) }, KEY);
    if (!allowed()) throw failure(answer); // the consent ended meanwhile
    if (id && (answer.status === 403 || answer.status === 410)) { // unknown by now, or erased: begin anew
      store.drop(VISITOR);
      for (const name of eventNames()) if (read(name)?.user_id === id) store.drop(name);
      return visitorToken(null);
    }
    if (!answer.ok) throw failure(answer);
    const visitor = await answer.json();
    store.set(VISITOR, visitor.user_id);
    return { of: visitor.user_id, value: visitor.token, ends: visitor.expires_at };
  }

  function failure(answer) {
    const error = new Error(`${answer.status} from ${new URL(answer.url).pathname}`);
    error.status = answer.status;
    error.after = 1000 * Number(answer.headers.get("Retry-After") || 0);
    return error;
  }

  const eventNames = () => store.names().filter((name) => name.startsWith(EVENT));

  function read(name) {
    try { return JSON.parse(store.get(name)); } catch { store.drop(name); return null; }
  }

  // Keeps an event until the API has it: a closed page, a lost network and a broken tab lose none.
  function keep(path, event) {
    if (!allowed()) return;
    const id = crypto.randomUUID ? crypto.randomUUID() : [...crypto.getRandomValues(new Uint32Array(4))].join("-");
    const user = named ? named.id : store.get(VISITOR) || "";
    store.set(EVENT + id, JSON.stringify({ path, ...event, event_id: id, user_id: user, occurred_at: Date.now() }));
    plan(SOON_MS);
  }

  function plan(ms) {
    if (timer === null) timer = setTimeout(() => { timer = null; flush(); }, ms);
  }

  // Sends what is kept, also by other tabs. Two tabs may send an event at once: its id makes it count once.
  async function flush() {
    if (sending || !allowed()) return;
    sending = true;
    try {
      for (let batch; allowed() && (batch = await nextBatch()).length;) await send(batch);
      pause = 0;
    } catch (error) {
      pause = Math.max(grown(pause), error.after || 0);
      plan(pause);
    } finally {
      sending = false;
    }
  }

  // The oldest kept events of this page's user. Those of a named user wait until the site names the user again.
  async function nextBatch() {
    if (!eventNames().length) return [];
    const events = keptOf((await identity()).of);
    return events.filter(({ path }) => path === events[0].path).slice(0, BATCH);
  }

  // The kept events of a user, oldest first, without those that a beacon took.
  function keptOf(user) {
    const events = eventNames().map(read).filter((event) => event && (event.user_id || user) === user && !beaconed.has(event.event_id));
    return events.sort((one, other) => one.occurred_at - other.occurred_at).map((event) => ({ ...event, user_id: user }));
  }

  const bodyOf = (batch, more) => JSON.stringify({ ...more, events: batch.map(({ path: _, ...event }) => event), sent_at: Date.now() });

  async function send(batch, keepalive = false) {
    const path = batch[0].path, body = bodyOf(batch);
    const headers = named ? { "Isthmus-User-Token": token.value } : {};
    const answer = await request(path, { method: "POST", body, headers, keepalive }, KEY);
    if (answer.status === 202 || answer.status === 207) {
      const { results } = await answer.json();
      results.forEach((result, index) => { if (result.status === "accepted") forget(batch[index]); });
      if (answer.status === 207) throw failure(answer);
    } else if ([400, 403, 413, 422].includes(answer.status)) {
      if (batch.length > 1) for (const event of batch) await send([event]); // one of them is refused: the others are not
      else { forget(batch[0]); console.warn("isthmus: an event was refused", await answer.text()); }
    } else {
      if (answer.status === 401) token = null;
      throw failure(answer);
    }
  }

  const forget = (event) => store.drop(EVENT + event.event_id);

  // The page may end here: what is kept goes by a beacon, which outlives the page. Nobody hears what becomes of a beacon, and some
  // are blocked, so the events stay kept until `fetch` has confirmed them: when the page is seen again, or by the next page.
  function leave() {
    attend();
    const user = named ? token && token.ends > Date.now() && token.of : store.get(VISITOR);
    if (!user || !allowed()) return;
    const kept = keptOf(user);
    for (const path of new Set(kept.map((event) => event.path))) beacon(kept.filter((event) => event.path === path));
  }

  // Browsers queue 64 kB in all, or nothing where beacons are turned off. A `fetch` that may outlive the page tries the next events.
  function beacon(events) {
    const credentials = { key: KEY, ...(named ? { user_token: token.value } : {}) };
    for (let count = Math.min(events.length, BATCH); count; count >>= 1) {
      const first = events.slice(0, count);
      const body = new Blob([bodyOf(first, { credentials })], { type: "text/plain" }); // another type would need a preflight
      if (body.size > BEACON_BYTES || !navigator.sendBeacon?.(api + first[0].path, body)) continue;
      first.forEach((event) => beaconed.add(event.event_id));
      return beacon(events.slice(count));
    }
    if (events.length) send(events.slice(0, BATCH), true).catch(() => {});
  }

  function back() {
    if (!allowed()) forgetVisitor(); // a page that the browser had put away hears nothing of other tabs
    beaconed.clear();
    attend();
    plan(SOON_MS); // also what former pages left
  }
  addEventListener("visibilitychange", () => (document.visibilityState === "hidden" ? leave() : back()));
  addEventListener("pagehide", leave); // some browsers hide a page that closes without saying so
  addEventListener("pageshow", back);
  addEventListener("online", () => { pause = 0; flush(); });
  addEventListener("storage", ({ key }) => { // another tab gave or withdrew the consent
    if (key !== CONSENT && key !== null) return;
    memory.clear();
    forgetVisitor();
    if (allowed()) begun();
  });

  function answered(action, items, list = {}) {
    const { placement, served_id, recommendation_id } = list;
    keep("/v1/feedback", { action, channel: "web", items, placement, ...(served_id ? { served_id } : { recommendation_id }) });
  }

  // Follows the list by server-sent events until `signal` ends it; by fetch, for EventSource sends no headers.
  async function follow(signal) {
    let pauses = 0;
    while (!signal.aborted) {
      try {
        const mine = await identity();
        if (signal.aborted) return;
        if (newest?.of !== mine.of) forgetList();
        const headers = newest ? { "Last-Event-ID": newest.id } : {};
        const answer = await request("/v1/me/events", { headers, signal }, mine.value);
        if (answer.status === 401) token = null;
        if (!answer.ok) throw failure(answer);
        for await (const { event, id, data } of events(answer.body)) {
          if (signal.aborted) return;
          pauses = 0;
          if (event === "erased") { token = null; forgetList(); break; }
          newest = { of: mine.of, id, data };
          lists.forEach(tell);
        }
      } catch (error) {
        if (signal.aborted) return;
        pauses = Math.max(grown(pauses), error.after || 0);
      }
      await wait(pauses || FIRST_PAUSE_MS);
    }
  }

  // An error of the page's own function is the page's: it ends no stream.
  function tell({ placement, onChange }) {
    try { onChange(newest && { ...JSON.parse(newest.data), placement }); } catch (error) { console.error(error); }
  }

  // The list is no longer the page's to show: its user is another, was erased, or withdrew the consent.
  function forgetList() {
    if (!newest) return;
    newest = null;
    lists.forEach(tell);
  }

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const fields = Object.fromEntries(part.split("\n").map((line) => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean).map(([, name, field]) => [name, field]));
        if (fields.event) yield fields;
      }
    }
  }

  // Begins the stream where lists are asked for and seen, and else ends it: with HTTP/1.1 a browser opens six connections to a host, for
  // all tabs together. Each has a controller of its own: one that was ended never goes on.
  function attend() {
    if (!lists.size || !allowed() || document.visibilityState === "hidden") pauseStream();
    else if (!following) follow((following = new AbortController()).signal);
  }

  function pauseStream() {
    following?.abort();
    following = null;
  }

  function begun() {
    attend();
    flush();
  }

  function forgetVisitor() {
    pauseStream();
    token = null;
    forgetList();
  }

  window.isthmus = Object.freeze({
    /** Allows storing and sending (true), or forbids it and forgets what is stored (false). */
    consent(given) {
      if (given && !objects) {
        store.set(CONSENT, "yes");
        begun();
      } else {
        for (const name of store.names()) if (name.startsWith("isthmus.")) store.drop(name);
        forgetVisitor();
      }
      return allowed();
    },
    /** Whether events are stored and sent. */
    allowed,
    /** Names the user: an id, and a function that asks the site's backend for `{token, expires_at}`. Without them: anonymous. */
    user(id, getToken) {
      const another = (id || undefined) !== named?.id;
      named = id ? { id, token: getToken } : null;
      asking = null;
      pauseStream();
      if (another) { token = null; forgetList(); }
      attend();
      plan(SOON_MS);
    },
    /** A click, by its tags. */
    click(tags) { keep("/v1/events", { type: "click", tags }); },
    /** A list that came in sight, as `recommendations` gave it. */
    shown(list) { answered("shown", list.items.map((entry) => entry.item), list); },
    /** An item that the visitor chose from a list. */
    selected(item, list) { answered("selected", [item], list); },
    /** Calls `onChange` with the list now and whenever it changes, and with null where it must leave the page; returns a function that ends this. */
    recommendations(placement, onChange) {
      const list = { placement, onChange };
      lists.add(list);
      if (newest) Promise.resolve().then(() => newest && lists.has(list) && tell(list));
      attend();
      return () => {
        lists.delete(list);
        if (!lists.size) newest = null;
        attend();
      };
    },
  });
})();
