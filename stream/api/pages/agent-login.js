/* Logs agents in: OpenID Connect, authorization code with PKCE (RFC 7636).
 *
 * Tokens live in this module's memory alone, so a reloaded page logs in again. Over the redirect, session storage keeps what proves
 * that the answer belongs to this page: state, nonce and the code's verifier. They are used once.
 */
const KEPT = "isthmus.log-in", EARLY_MS = 20000;
const here = location.origin + location.pathname;
export const settings = JSON.parse(document.querySelector('meta[name="isthmus-log-in"]').content);

let session = null; // {access, renewal, ends, hint: the ID token}
let renewing = null; // while it runs

export class LogInError extends Error {}

const base64url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

/** Why nobody can log in here; "" where one can. */
export function obstacle() {
  if (!settings.issuer && !settings.is_demo) return "Nobody can log in here yet: this API knows no identity provider for agents (settings api.oidc_*).";
  if (!globalThis.crypto?.subtle) return "Open this page by https: without it, browsers refuse what a log-in needs.";
  return "";
}

/** Leaves for the provider's page. */
export async function leave() {
  const kept = { state: random(), nonce: random(), verifier: random() };
  const challenge = base64url(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(kept.verifier)));
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  const asked = {
    ...settings.parameters, response_type: "code", client_id: settings.client_id, redirect_uri: here, scope: settings.scope,
    state: kept.state, nonce: kept.nonce, code_challenge: challenge, code_challenge_method: "S256",
  };
  const url = new URL(settings.authorize_url);
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  location.assign(url);
}

/** Comes back from the provider's page; returns `{agent}`, the name, or null where this page was opened in another way. */
export async function comeBack() {
  const answer = new URLSearchParams(location.search), kept = take();
  if (!["code", "error", "state"].some((name) => answer.has(name))) return null;
  history.replaceState(null, "", location.pathname); // before anything else: the code is in no history
  if (kept === null || answer.get("state") !== kept.state) throw new LogInError("This log-in was not begun by this page, so it was refused. Log in again.");
  if (answer.has("iss") && answer.get("iss") !== settings.issuer) throw new LogInError("Another provider answered the log-in, so it was refused.");
  if (!answer.has("code")) throw new LogInError(`The log-in failed: ${answer.get("error_description") || answer.get("error")}`);
  const made = await ask({ grant_type: "authorization_code", code: answer.get("code"), redirect_uri: here, code_verifier: kept.verifier });
  const agent = nameIn(made.id_token, kept.nonce);
  session = sessionOf(made);
  session.hint = made.id_token;
  return { agent };
}

function take() {
  const kept = sessionStorage.getItem(KEPT);
  sessionStorage.removeItem(KEPT);
  return kept === null ? null : JSON.parse(kept);
}

async function ask(fields) {
  const body = new URLSearchParams({ client_id: settings.client_id, ...fields });
  const options = { method: "POST", body, credentials: "omit", redirect: "error", cache: "no-store" };
  const answer = await fetch(settings.token_url, options).catch(() => null);
  if (answer === null) throw new LogInError("The identity provider did not answer. Try again.");
  const made = await answer.json().catch(() => ({}));
  if (!answer.ok || !made.access_token) throw new LogInError(`The identity provider gave no token: ${made.error_description || made.error || answer.status}`);
  return made;
}

function sessionOf(made, renewal) {
  return { access: made.access_token, renewal: made.refresh_token ?? renewal, ends: Date.now() + 1000 * (made.expires_in ?? 60) };
}

/** The agent's name in an ID token, which came from the provider itself by TLS (OpenID Connect Core, 3.1.3.7). */
function nameIn(token, nonce) {
  const claims = claimsOf(token);
  const meant = [claims.aud].flat().includes(settings.client_id) && claims.iss === settings.issuer && 1000 * claims.exp > Date.now() - 60000;
  if (!meant || claims.nonce !== nonce) throw new LogInError("The provider’s answer belongs to another log-in, so it was refused. Log in again.");
  return String(claims.name || claims.preferred_username || claims.email || claims.sub);
}

function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}

/** Takes the demo's token, and ids of some customers. */
export async function enterDemo() {
  const answer = await fetch("/demo/token", { method: "POST", credentials: "omit" });
  if (!answer.ok) throw new LogInError("The demo gives no token to this address: open the one that it printed.");
  const { token: access, examples } = await answer.json();
  session = { access, ends: Infinity };
  return { agent: "Demo agent", examples };
}

/** A live token, renewed where the provider allows it; null where the agent must log in. */
export async function token() {
  if (session !== null && session.ends - EARLY_MS < Date.now()) renewing ??= renew(session).finally(() => { renewing = null; });
  await renewing;
  return session !== null && Date.now() < session.ends ? session.access : null;
}

/** Renews a session, unless the agent logs out meanwhile. Where that fails, the token serves until its end. */
async function renew(before) {
  const made = before.renewal ? await ask({ grant_type: "refresh_token", refresh_token: before.renewal }).catch(() => null) : null;
  if (made !== null && session === before) session = { ...sessionOf(made, before.renewal), hint: before.hint };
}

/** Forgets the tokens, and ends the session at the provider where it offers that. A form leads there and back: the ID token is in no URL. */
export function logOut() {
  const hint = session?.hint;
  forget();
  if (!settings.end_session_url || !hint) return;
  const form = Object.assign(document.createElement("form"), { method: "post", action: settings.end_session_url });
  const fields = { id_token_hint: hint, client_id: settings.client_id, post_logout_redirect_uri: here };
  form.append(...Object.entries(fields).map(([name, value]) => Object.assign(document.createElement("input"), { type: "hidden", name, value })));
  document.body.append(form);
  form.submit();
  form.remove();
}

/** Forgets the tokens. */
export function forget() {
  session = null;
}
