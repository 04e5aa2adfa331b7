/* Days and times in words, the same on all pages: en-GB, with the year. */
const DAY_MS = 86400000;
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const timeOf = (ms) => clock.format(ms);

/** The day of a moment as people say it. */
export function dayOf(ms, now = Date.now()) {
  const start = new Date(now).setHours(0, 0, 0, 0);
  if (ms >= start && ms < start + DAY_MS) return "Today";
  if (ms >= start - DAY_MS && ms < start) return "Yesterday";
  return date.format(ms);
}

function inSentence(ms, preposition) {
  const said = dayOf(ms);
  return said === "Today" || said === "Yesterday" ? said.toLowerCase() : preposition + said;
}

export const on = (ms) => inSentence(ms, "on ");
export const when = (ms) => `${inSentence(ms, "")}, ${timeOf(ms)}`;
