/* The map of the live page: users as dots on a canvas, items and the followed user's way above them as SVG. */

const SVG = "http://www.w3.org/2000/svg";
const SPREAD_MS = 450, GLIDE_MS = 450, TRAIL_MS = 1800, FLIGHT_MS = 700, FORGET_MS = 90000;
const MOST = 600, NEAR_PX = 18, CHARACTERS = 16, LISTED_CHARACTERS = 13, GAP_PX = 3;
const still = matchMedia("(prefers-reduced-motion: reduce)");

function shape(dot) {
  return dot.sessions && dot.conversations ? "both" : dot.conversations ? "conversation" : "session";
}

function svg(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The text in lines of at most `most` characters, where it has words. */
function lines(text, most) {
  const found = [];
  for (const word of text.split(" ")) {
    const last = found.at(-1);
    if (last !== undefined && `${last} ${word}`.length <= most) found[found.length - 1] = `${last} ${word}`;
    else found.push(word);
  }
  return found.slice(0, 3).map((line) => line.length > most + 4 ? `${line.slice(0, most + 3)}…` : line);
}

export class SpaceMap {
  #dots = new Map(); // user -> {x, y, fromX, fromY, since, shape, by, seen}
  #items = [];
  #listed = [];
  #way = [];
  #picked = "";
  #colours = {};
  #frozenAt = null;
  #version = "";

  constructor(box, onPick) {
    this.box = box;
    this.canvas = box.querySelector("canvas");
    this.marks = box.querySelector("svg");
    this.canvas.addEventListener("click", (event) => {
      const user = this.#nearest(event.offsetX, event.offsetY);
      if (user !== null) onPick(user);
    });
    new ResizeObserver(() => this.#resize()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#readColours());
    this.#readColours();
    this.#resize();
    requestAnimationFrame(() => this.#draw());
  }

  /** A new map: the circle of items, and all users on it. */
  show(picture) {
    if (picture.version !== this.#version) this.#dots.clear();
    this.#version = picture.version;
    this.#items = picture.items;
    if (!picture.items.length) this.#way = [];
    this.add(picture.dots);
    this.#mark();
  }

  /** Users whose places changed. */
  add(dots) {
    const now = performance.now();
    for (const dot of dots) {
      const known = this.#dots.get(dot.user);
      const [fromX, fromY] = known ? this.#at(known, now) : [dot.x, dot.y];
      this.#dots.delete(dot.user); // so that the newest are last
      this.#dots.set(dot.user, { x: dot.x, y: dot.y, fromX, fromY, since: known ? now + Math.random() * SPREAD_MS : now, shape: shape(dot), by: dot.by, seen: now });
    }
    for (const [user, dot] of this.#dots) {
      if (this.#dots.size <= MOST && now - dot.seen < FORGET_MS) break;
      if (user !== this.#picked) this.#dots.delete(user);
    }
    this.canvas.setAttribute("aria-label", `Map of the shared space: ${this.#dots.size} customers among ${this.#items.length} items`);
  }

  remove(users) {
    for (const user of users) this.#dots.delete(user);
  }

  pick(user, listed = [], way = []) {
    [this.#picked, this.#listed, this.#way] = [user, listed, way];
    this.#mark();
  }

  freeze(frozen) {
    this.#frozenAt = frozen ? performance.now() : null;
  }

  get size() {
    return this.#dots.size;
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["session", "conversation", "both", "purchase", "text", "card"]) this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
  }

  #resize() {
    const scale = window.devicePixelRatio || 1;
    [this.width, this.height] = [this.box.clientWidth, this.box.clientHeight];
    [this.canvas.width, this.canvas.height] = [this.width * scale, this.height * scale];
    this.canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
    this.marks.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.radiusX = this.width / 2 - Math.min(104, this.width * 0.24);
    this.radiusY = this.height / 2 - 66;
    this.#mark();
  }

  #point(x, y, stretch = 1) {
    return [this.width / 2 + x * this.radiusX * stretch, this.height / 2 + y * this.radiusY * stretch];
  }

  /** Where a dot is while it glides. */
  #at(dot, now) {
    const share = still.matches ? 1 : Math.min(1, Math.max(0, now - dot.since) / GLIDE_MS);
    const eased = share * (2 - share);
    return [dot.fromX + (dot.x - dot.fromX) * eased, dot.fromY + (dot.y - dot.fromY) * eased];
  }

  #nearest(x, y) {
    const now = performance.now();
    let [best, user] = [NEAR_PX, null];
    for (const [name, dot] of this.#dots) {
      const [left, top] = this.#point(...this.#at(dot, now));
      const far = Math.hypot(left - x, top - y);
      if (far <= best) [best, user] = [far, name];
    }
    return user;
  }

  #draw() {
    requestAnimationFrame(() => this.#draw());
    if (document.visibilityState === "hidden") return;
    const context = this.canvas.getContext("2d"), now = this.#frozenAt ?? performance.now();
    context.clearRect(0, 0, this.width, this.height);
    for (const [user, dot] of this.#dots) {
      if (user === this.#picked) continue;
      if (!still.matches) this.#drawMotion(context, dot, now);
      const [x, y] = this.#point(...this.#at(dot, now));
      context.globalAlpha = 0.25 + 0.6 * Math.max(0, 1 - (now - dot.seen) / FORGET_MS);
      this.#drawDot(context, dot.shape, x, y, 3.4);
    }
    context.globalAlpha = 1;
    const picked = this.#dots.get(this.#picked);
    if (picked) {
      const [x, y] = this.#point(...this.#at(picked, now));
      this.#drawDot(context, picked.shape, x, y, 6);
      this.here?.setAttribute("cx", x);
      this.here?.setAttribute("cy", y);
    }
    this.here?.setAttribute("visibility", picked && this.#items.length ? "visible" : "hidden");
  }

  #drawDot(context, kind, x, y, size) {
    context.fillStyle = this.#colours[kind];
    context.beginPath();
    if (kind === "session") context.arc(x, y, size, 0, 7);
    else if (kind === "conversation") context.rect(x - size * 0.9, y - size * 0.9, size * 1.8, size * 1.8);
    else { context.moveTo(x, y - size * 1.35); context.lineTo(x + size * 1.35, y); context.lineTo(x, y + size * 1.35); context.lineTo(x - size * 1.35, y); }
    context.fill();
  }

  /** What an event does: it flies in from its channel, and the dot leaves a trail. */
  #drawMotion(context, dot, now) {
    const passed = now - dot.since;
    if (!dot.by || passed < 0 || passed > TRAIL_MS) return;
    const colour = this.#colours[{ click: "session", call: "conversation", purchase: "purchase" }[dot.by]];
    const [fromX, fromY] = this.#point(dot.fromX, dot.fromY), [x, y] = this.#point(...this.#at(dot, now));
    context.strokeStyle = context.fillStyle = colour;
    if (Math.hypot(x - fromX, y - fromY) > 6) {
      context.globalAlpha = 0.5 * (1 - passed / TRAIL_MS);
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(fromX, fromY);
      context.lineTo(x, y);
      context.stroke();
    }
    const port = this.#port(dot.by);
    if (passed < FLIGHT_MS && port) {
      const share = passed / FLIGHT_MS;
      context.globalAlpha = 0.7 * (1 - share);
      context.beginPath();
      context.arc(port[0] + (fromX - port[0]) * share, port[1] + (fromY - port[1]) * share, 2, 0, 7);
      context.fill();
    }
  }

  #port(by) {
    return by === "click" ? [6, 18] : by === "call" ? [6, this.height - 12] : null;
  }

  /** Items, ports and the followed user's way. Names that would lie on others are left out, those of the list last. */
  #mark() {
    const marks = [];
    if (this.#items.length) {
      marks.push(svg("text", { class: "port click", x: 0, y: 14 }, "website"), svg("text", { class: "port call", x: 0, y: this.height - 6 }, "call centre"));
      const taken = [{ left: 0, right: 70, top: 0, bottom: 20 }, { left: 0, right: 75, top: this.height - 22, bottom: this.height }];
      for (const { item, x, y } of this.#items) {
        const [left, top] = this.#point(x, y);
        taken.push({ item, left: left - 4, right: left + 4, top: top - 4, bottom: top + 4 });
      }
      const rank = new Map(this.#listed.map((item, index) => [item, index + 1]));
      const inOrder = [...this.#items].sort((one, other) => (rank.get(one.item) ?? 99) - (rank.get(other.item) ?? 99));
      for (const item of inOrder) marks.push(...this.#anchor(item, rank.get(item.item), taken));
    }
    this.here = svg("circle", { class: "here", r: 11, visibility: "hidden" });
    this.marks.replaceChildren(...marks, ...this.#wayMarks(), this.here);
  }

  #anchor(item, rank, taken) {
    const [x, y] = this.#point(item.x, item.y), listed = rank ? " listed" : "";
    const marks = [svg("circle", { class: `anchor${listed}`, cx: x, cy: y, r: rank ? 4 : 3 })];
    const text = rank ? lines(`${rank}. ${item.name}`, LISTED_CHARACTERS) : lines(item.name, CHARACTERS);
    const size = { width: this.#widest(text, listed), height: text.length * 13 };
    for (const away of [0, 14, 28, 42, -14, -28]) {
      const room = this.#room(item, x, y, away, size);
      if (taken.some((other) => other.item !== item.item && room.left < other.right + GAP_PX && room.right + GAP_PX > other.left && room.top < other.bottom && room.bottom > other.top)) continue;
      if (room.top < -4 || room.bottom > this.height + 4) continue;
      taken.push(room);
      const label = svg("text", { class: `name${listed}`, "text-anchor": room.side });
      text.forEach((line, index) => label.append(svg("tspan", { x: room.x, y: room.top + 10.5 + 13 * index }, line)));
      if (away) marks.push(svg("line", { class: "leader", x1: x, y1: y, ...room.end }));
      return [...marks, label];
    }
    return marks;
  }

  /** The width of the widest line as the page's font draws it. */
  #widest(text, listed) {
    const context = this.canvas.getContext("2d"), style = getComputedStyle(this.marks);
    context.font = `${listed ? 650 : 400} ${style.fontSize} ${style.fontFamily}`;
    return Math.ceil(Math.max(...text.map((line) => context.measureText(line).width)));
  }

  /** Where a name may stand: outside the circle, and `away` further up or down. */
  #room(item, x, y, away, { width, height }) {
    const isUpright = Math.abs(item.x) < 0.3;
    const side = isUpright ? "middle" : item.x > 0 ? "start" : "end";
    const labelX = x + (isUpright ? 0 : Math.sign(item.x) * 9);
    const wanted = labelX - (isUpright ? width / 2 : side === "end" ? width : 0);
    const left = Math.max(-6, Math.min(this.width + 6 - width, wanted));
    const centre = y + (isUpright ? Math.sign(item.y) * (8 + height / 2) : item.y * 6) + Math.sign(item.y) * away;
    const end = isUpright ? { x2: x, y2: item.y > 0 ? centre - height / 2 : centre + height / 2 } : { x2: labelX - Math.sign(item.x) * 2, y2: centre };
    return { x: labelX + left - wanted, side, left, right: left + width, top: centre - height / 2, bottom: centre + height / 2, end };
  }

  #wayMarks() {
    if (!this.#items.length || this.#way.length < 2) return [];
    const points = this.#way.map((step) => ({ ...step, at: this.#point(...step.place) }));
    const line = svg("polyline", { class: "way", points: points.map((step) => step.at.join(",")).join(" ") });
    const colour = { click: "var(--session)", call: "var(--conversation)" };
    const steps = points.slice(1, -1).map(({ kind, at: [x, y] }) => {
      const mark = kind === "call" ? svg("rect", { class: "mark", x: x - 4.5, y: y - 4.5, width: 9, height: 9 }) : svg("circle", { class: "mark", cx: x, cy: y, r: 5 });
      mark.style.fill = colour[kind];
      return mark;
    });
    const [x, y] = points[0].at;
    return [line, svg("circle", { class: "anchor listed", cx: x, cy: y, r: 3 }), ...steps];
  }
}
