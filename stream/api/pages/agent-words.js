/* What the page of agents says: reasons of offers, and what happened, in words. */
import { on, timeOf } from "./times.js";

export const MODALITIES = { session: "website visit", conversation: "call" };
export const ACTIONS = {
  accepted: "Accepted", rejected: "Rejected", dismissed: "Not now", selected: "Chosen on the website", bought: "Bought", cancelled: "Cancelled",
};

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en-GB")} ${number === 1 ? one : many}`;
export const name = (item) => item.name || item.item;

/** How long something took; "" for less than a minute. */
export function lasted(started, ended) {
  const minutes = Math.round((ended - started) / 60000);
  if (minutes < 1) return "";
  return minutes < 120 ? count(minutes, "minute") : count(Math.round(minutes / 60), "hour");
}

const model = (list) => (list.model ? `model ${list.model.name} ${list.model.version}` : "no model");

/** What the whole list rests on. */
export function basis(list) {
  if (!list.items.length) return "";
  if (list.fallback === "catalogue") return "In the catalogue’s order: no model is in use yet.";
  if (list.fallback) return `What customers buy most: ${model(list)} reads nothing of what this one did.`;
  const { session = 0, conversation = 0 } = list.modalities || {};
  const parts = [[session, "website visit"], [conversation, "call"]].filter(([number]) => number).map(([number, word]) => count(number, word));
  const replaced = list.changed === "filled" ? " Items that can no longer be offered were replaced." : "";
  return `From the last ${parts.join(" and ") || "events"}, by ${model(list)}.${replaced}`;
}

/** Why an item stands on the list. `first` is the best item that is left. */
export function reason(entry, list, first, profile) {
  const answered = [...(profile?.last_answers || [])].reverse().find((one) => one.item.item === entry.item && one.action !== "selected");
  const before = answered ? `${ACTIONS[answered.action]} ${on(answered.occurred_at)}.` : "";
  const owned = (profile?.owned_items || []).some((one) => one.item === entry.item) ? "Owned already, and can be bought again." : "";
  return [ground(entry, list, first), owned, before].filter(Boolean).join(" ");
}

function ground(entry, list, first) {
  if (list.fallback === "catalogue") return "";
  if (list.fallback) return entry === first ? "Bought most by all customers." : "Often bought by all customers.";
  if (entry.score === undefined) return "Often bought by all customers; the model says nothing about it.";
  const why = because(entry, first, list);
  if (why || entry === first) return why;
  const share = first.score ? entry.score / first.score : 0;
  return share >= 0.9 ? "Fits nearly as well as the first." : share >= 0.5 ? "Fits well." : "";
}

/** The interaction that speaks most for the item. "" where nothing is known. */
function because(entry, first, list) {
  const [most] = entry.because || (entry === list.items[0] ? list.because : undefined) || [];
  if (!most) return "";
  const fits = entry === first ? "Fits best" : "Fits";
  return `${fits}, above all for the ${MODALITIES[most.modality]} ${on(most.started_at)}, ${timeOf(most.started_at)}.`;
}
