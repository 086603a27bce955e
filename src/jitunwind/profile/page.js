"use strict";
// Draws the tree of calls that stands in the page as JSON. All text is set as text; none of the data becomes markup.

const data = JSON.parse(document.getElementById("data").textContent);
const [graph, about, found, search, reversed, pythonOnly, whole, threads] =
  ["graph", "about", "found", "search", "reversed", "python", "whole", "thread"].map(id => document.getElementById(id));
const isDifference = document.body.dataset.difference === "1";
const WORDS = { python: "Python, in the interpreter", jit: "Python, in JIT code", native: "C", kernel: "kernel",
  waiting: "waiting", thread: "thread" };
const ROW = 20, LEAST = 1, WIDE_ENOUGH = 24; // pixels
const SEARCHED_AFTER = 120; // milliseconds
const LONGEST_CYCLE = 8; // frames of functions that call each other
const last = data.own.length - 1; // of two recordings the widths are the second's
const kindOf = frame => data.kinds[data.frames[frame][1]];
const isPython = data.frames.map((_, frame) => ["python", "jit"].includes(kindOf(frame)));
const isWaiting = data.frames.map((_, frame) => kindOf(frame) === "waiting");
const hasInterpreter = data.frames.some((_, frame) => kindOf(frame) === "python");
const same = sameFunctions();
const firstThread = data.frames.length; // threads are frames, too, where the graph is split by them
data.kinds.push("thread");
for (const name of data.threads) data.frames.push([name, data.kinds.length - 1, null, null]);

let tree = null; // the one that is shown
let zoomed = 0, here = -1, hits = null, drawn = new Map();

// The first frame of the same function: whether it runs in JIT code is no difference where two recordings are compared.
function sameFunctions() {
  const first = new Map();
  return data.frames.map((each, frame) => {
    const key = JSON.stringify([each[0], isPython[frame] ? "python" : kindOf(frame), each[2], each[3]]);
    if (!first.has(key)) first.set(key, frame);
    return first.get(key);
  });
}

// --- trees, in preorder: frame, depth, parent, end (behind the last below), own and total weights of each recording

function asGiven() {
  const own = data.own.map(weights => Float64Array.from(weights));
  return finished(Int32Array.from(data.frameOf), Int32Array.from(data.depths), own);
}

function finished(frame, depth, own) {
  const count = frame.length, parent = new Int32Array(count), end = new Int32Array(count), open = [];
  for (let i = 0; i < count; i++) {
    while (open.length > depth[i]) end[open.pop()] = i;
    parent[i] = open.length ? open[open.length - 1] : -1;
    open.push(i);
  }
  while (open.length) end[open.pop()] = count;
  return { frame, depth, parent, end, own, total: sums(own, parent), count };
}

function sums(own, parent) { // of each node and all below it; children come behind their parents
  const total = own.map(weights => Float64Array.from(weights));
  for (const weights of total) for (let i = weights.length - 1; i > 0; i--) weights[parent[i]] += weights[i];
  return total;
}

// A tree while it grows. `jit`: weights of the stacks that have the node's function in JIT code.
class Growing {
  constructor() {
    this.frame = [-1];
    this.parent = [-1];
    this.again = new Set(); // of functions that call themselves, directly or by others
    this.kinds = new Map(); // weights by what the innermost frame is of
    this.own = data.own.map(() => [0]);
    this.jit = data.own.map(() => [0]);
    this.known = new Map();
  }

  below(at, frame) {
    const key = at * data.frames.length + frame;
    let next = this.known.get(key);
    if (next === undefined) {
      this.known.set(key, next = this.frame.length);
      this.frame.push(frame);
      this.parent.push(at);
      for (const weights of [...this.own, ...this.jit]) weights.push(0);
    }
    return next;
  }

  // The node above, `frame` being called there, if the innermost frames are those that are before them once more.
  cycle(at, frame) {
    const path = [frame];
    for (let up = at; up > 0 && path.length < 2 * LONGEST_CYCLE; up = this.parent[up]) path.push(this.frame[up]);
    for (let size = 1; 2 * size <= path.length; size++) {
      let place = 0;
      while (place < size && path[place] === path[place + size]) place++;
      if (place < size) continue;
      let up = at;
      for (let step = 1; step < size; step++) up = this.parent[up];
      return up;
    }
    return -1;
  }

  flattened() {
    const total = sums(this.own, this.parent), below = this.frame.map(() => null), pending = [[0, 0]];
    for (let i = 1; i < this.frame.length; i++) (below[this.parent[i]] ??= []).push(i);
    const order = [], depth = [];
    while (pending.length) {
      const [at, level] = pending.pop();
      order.push(at);
      depth.push(level);
      below[at]?.sort((a, b) => total[last][a] - total[last][b] || this.frame[b] - this.frame[a]);
      for (const each of below[at] ?? []) pending.push([each, level + 1]);
    }
    const placed = weights => Float64Array.from(order, at => weights[at]);
    const done = finished(Int32Array.from(order, at => this.frame[at]), Int32Array.from(depth), this.own.map(placed));
    return { ...done, jit: this.jit.map(placed), again: order.map(at => this.again.has(at)), kinds: this.kinds };
  }
}

// The stacks of `own`, outermost first, below `start`. Unless whole, they begin with Python, and cycles are told once.
function grow(growing, own, start, wanted) {
  const total = own === given.own ? given.total : sums(own, given.parent);
  const at = [start], isBefore = [!wanted.isWhole && hasInterpreter && !wanted.isPythonOnly], path = [-1], kind = ["none"];
  for (let i = 0; i < given.count; i++) {
    if (!total.some(weights => weights[i])) { i = given.end[i] - 1; continue; }
    const depth = given.depth[i], frame = given.frame[i];
    path[depth] = frame;
    if (depth) {
      const isShown = !wanted.isPythonOnly || isPython[frame] || isWaiting[frame];
      kind[depth] = isShown ? kindOf(frame) : kind[depth - 1];
      isBefore[depth] = isBefore[depth - 1] && !isPython[frame];
      at[depth] = at[depth - 1];
      if (isShown && !isBefore[depth]) at[depth] = called(at[depth - 1], frame, weights => weights[i]);
    }
    if (!own.some(weights => weights[i])) continue;
    let end = at[depth];
    if (isBefore[depth]) for (const each of path.slice(1, depth + 1)) end = called(end, each, () => 0);
    own.forEach((weights, which) => { growing.own[which][end] += weights[i]; });
    growing.kinds.set(kind[depth], (growing.kinds.get(kind[depth]) ?? 0) + own[last][i]);
  }

  function called(from, frame, weightIn) {
    const shown = wanted.isMerged ? same[frame] : frame, outer = wanted.isWhole ? -1 : growing.cycle(from, shown);
    if (outer > 0) {
      growing.again.add(outer);
      return outer;
    }
    const next = growing.below(from, shown);
    if (kindOf(frame) === "jit") total.forEach((weights, which) => { growing.jit[which][next] += weightIn(weights); });
    return next;
  }
}

function ownOf(thread) { // the weights of one thread
  const own = new Float64Array(given.count);
  for (const [at, which, weight] of data.threadOwn) if (which === thread) own[at] += weight;
  return [own];
}

// The same stacks, the innermost first; threads stay on top.
function turned(from) {
  const growing = new Growing();
  growing.kinds = from.kinds;
  for (let i = 1; i < from.frame.length; i++) {
    if (!from.own.some(weights => weights[i])) continue;
    const frames = [];
    for (let up = i; up > 0; up = from.parent[up]) frames.push(from.frame[up]);
    let at = frames.at(-1) >= firstThread ? growing.below(0, frames.pop()) : 0;
    for (const frame of frames) {
      at = growing.below(at, isDifference ? same[frame] ?? frame : frame);
      if (kindOf(frame) === "jit") from.own.forEach((weights, which) => { growing.jit[which][at] += weights[i]; });
    }
    from.own.forEach((weights, which) => { growing.own[which][at] += weights[i]; });
  }
  from.own.forEach((weights, which) => { growing.own[which][0] += weights[0]; });
  return growing;
}

function told(isReversed, isPythonOnly, isWhole, thread) {
  const growing = new Growing(), wanted = { isPythonOnly, isWhole, isMerged: isDifference && !isReversed };
  if (thread === "split")
    data.threads.forEach((_, each) => grow(growing, ownOf(each), growing.below(0, firstThread + each), wanted));
  else grow(growing, thread === "" ? given.own : ownOf(Number(thread)), 0, wanted);
  return (isReversed ? turned(growing) : growing).flattened();
}

const given = asGiven();
const isEmpty = !given.total.some(weights => weights[0]);
const trees = new Map();

function choose() { // which tree the boxes ask for
  const wanted = [reversed.checked, pythonOnly.checked, whole.checked, threads.value], key = wanted.join();
  if (!trees.has(key)) trees.set(key, told(...wanted));
  tree = trees.get(key);
  zoomed = 0;
  here = -1;
  mark();
  draw();
}

function offerThreads() {
  const each = new Float64Array(data.threads.length), offer = (value, text) => threads.add(new Option(text, value));
  for (const [, thread, weight] of data.threadOwn) each[thread] += weight;
  offer("", `all ${data.threads.length} threads`);
  offer("split", "split by thread");
  data.threads.forEach((name, thread) => offer(thread, `${name}, ${per(each[thread] / given.total[0][0])}`));
  threads.parentElement.hidden = data.threads.length < 2;
}

// --- widths: in a difference, both recordings count alike, and what has gone is seen too

function weight(i) {
  if (!isDifference) return tree.total[0][i];
  return Math.max(share(0, i), share(1, i));
}

function share(which, i) { return tree.total[which][0] ? tree.total[which][i] / tree.total[which][0] : 0; }

function children(i) {
  const found = [];
  for (let at = i + 1; at < tree.end[i]; at = tree.end[at]) found.push(at);
  return found;
}

// --- drawing: only what is wide enough and near the window

let layout = []; // of what is wide enough: [index, left, width, row]

function draw() {
  if (isEmpty) return; // the page says why
  const width = graph.clientWidth;
  layout = [];
  const above = [];
  for (let at = tree.parent[zoomed]; at >= 0; at = tree.parent[at]) above.unshift(at);
  above.forEach((at, row) => layout.push([at, 0, width, row]));
  const pending = [[zoomed, 0, width, above.length]];
  let rows = above.length;
  while (pending.length) {
    const [at, left, size, row] = pending.pop();
    layout.push([at, left, size, row]);
    rows = Math.max(rows, row);
    const below = children(at), sum = below.reduce((total, each) => total + weight(each), 0);
    const scale = size / Math.max(weight(at), sum);
    let x = left;
    for (const each of below) {
      const own = weight(each) * scale;
      if (own >= LEAST) pending.push([each, x, own, row + 1]);
      x += own;
    }
  }
  graph.style.height = `${(rows + 1) * ROW}px`;
  graph.replaceChildren();
  drawn = new Map();
  fill();
  legend();
  tell(here >= 0 && drawn.has(here) ? here : zoomed);
}

function fill() { // the bars near the window that are not there yet
  const top = graph.getBoundingClientRect().top, from = -top - innerHeight, to = -top + 2 * innerHeight;
  const fresh = document.createDocumentFragment();
  for (const [at, left, size, row] of layout) {
    const y = row * ROW;
    if (y < from || y > to || drawn.has(at)) continue;
    const bar = document.createElement("div");
    bar.className = "call";
    bar.dataset.at = at;
    bar.setAttribute("role", "treeitem");
    bar.setAttribute("aria-level", tree.depth[at] + 1);
    bar.setAttribute("aria-label", `${title(at)}${tree.again[at] ? ", calls itself" : ""}, ${percent(at)}`);
    bar.style.cssText = `left:${left}px;width:${Math.max(size, 1)}px;top:${y}px;background:${colour(at)}`;
    if (size >= WIDE_ENOUGH) bar.textContent = tree.again[at] ? `${title(at)} ↻` : title(at); else bar.classList.add("narrow");
    if (tree.end[at] > zoomed && at < zoomed) bar.classList.add("above");
    if (hits && hits.has(at)) bar.classList.add("hit");
    if (at === here) bar.classList.add("here");
    drawn.set(at, bar);
    fresh.append(bar);
  }
  graph.append(fresh);
}

function frameAt(at) { return tree.frame[at] < 0 ? null : data.frames[tree.frame[at]]; }

function title(at) {
  const frame = frameAt(at);
  if (!frame) return "all";
  return frame[3] === null ? frame[0] : `${frame[0]}:${frame[3]}`;
}

function colour(at) {
  const frame = frameAt(at);
  if (!frame) return "var(--rest)";
  if (isDifference) return changed(share(1, at) - share(0, at));
  const kind = data.kinds[frame[1]];
  if (kind === "thread") return "var(--rest)";
  let hash = 0;
  for (const letter of frame[0]) hash = (hash * 31 + letter.codePointAt(0)) | 0;
  return `var(--${kind}${hash & 1 ? "2" : ""})`;
}

function changed(by) { // in points of the whole time
  const size = Math.abs(by);
  if (size < 0.0005) return "var(--rest)";
  return `var(--${by > 0 ? "more" : "less"}${size < 0.01 ? 1 : size < 0.05 ? 2 : 3})`;
}

function percent(at) {
  if (isDifference) return `${per(share(0, at))} before, ${per(share(1, at))} after`;
  return per(share(0, at));
}

function per(part) { return `${(100 * part).toFixed(part > 0 && part < 0.0095 ? 2 : 1)} %`; }

function tell(at) {
  const frame = frameAt(at), parts = [title(at)];
  if (frame) {
    const kind = data.kinds[frame[1]];
    parts.push(isDifference && isPython[tree.frame[at]] ? "Python" : WORDS[kind]);
    if (tree.again[at]) parts.push("calls itself");
    if (frame[2]) parts.push(frame[2]);
  }
  parts.push(percent(at));
  if (!isDifference) {
    parts.push(`${per(tree.total[0][0] ? tree.own[0][at] / tree.total[0][0] : 0)} own`);
    parts.push(`${tree.total[0][at].toLocaleString("en")} samples, ${(tree.total[0][at] * data.period).toFixed(2)} s`);
    if (zoomed && tree.total[0][zoomed]) parts.push(`${per(tree.total[0][at] / tree.total[0][zoomed])} of ${title(zoomed)}`);
  } else {
    const by = share(1, at) - share(0, at);
    parts.push(`${by > 0 ? "+" : by < 0 ? "−" : "±"}${(100 * Math.abs(by)).toFixed(1)} points`);
    const inJit = tree.jit.map((weights, which) => per(weights[at] / (tree.total[which][at] || 1)));
    if (tree.jit.some(weights => weights[at])) parts.push(`in JIT code ${inJit[0]} before, ${inJit[1]} after`);
  }
  about.textContent = parts.join(" · ");
}

function legend() {
  const list = document.getElementById("legend"), kinds = [...tree.kinds].filter(([, own]) => own);
  list.replaceChildren();
  const entries = isDifference
    ? [["var(--more3)", "more time than before"], ["var(--less3)", "less"], ["var(--rest)", "as before"]]
    : kinds.map(([kind, own]) =>
      [`var(--${kind in WORDS ? kind : "rest"})`, `${WORDS[kind] ?? "without Python"} ${per(own / tree.total[0][0])}`]);
  for (const [ground, words] of entries) {
    const item = document.createElement("li"), spot = document.createElement("i");
    spot.style.background = ground;
    item.append(spot, words);
    list.append(item);
  }
}

// --- search

function mark() {
  const query = search.value.trim().toLowerCase();
  hits = null;
  if (query) {
    hits = new Set();
    const wanted = data.frames.map(frame => `${frame[0]} ${frame[2] || ""}`.toLowerCase().includes(query));
    const within = data.own.map(() => 0);
    let covered = 0;
    for (let i = 0; i < tree.count; i++) {
      if (tree.frame[i] < 0 || !wanted[tree.frame[i]]) continue;
      hits.add(i);
      if (i >= covered) {
        tree.total.forEach((weights, which) => { within[which] += weights[i]; });
        covered = tree.end[i];
      }
    }
    const shares = within.map((sum, which) => per(tree.total[which][0] ? sum / tree.total[which][0] : 0));
    found.textContent = hits.size
      ? `“${search.value.trim()}” is in ${hits.size.toLocaleString("en")} ${hits.size === 1 ? "place" : "places"}, ${shares.join(" of the time before, and ")} of the time`
      : `Nothing found for “${search.value.trim()}”.`;
  } else {
    found.textContent = data.folded ? `${data.folded.toLocaleString("en")} of the lightest calls are folded into their callers.` : "";
  }
  for (const [at, bar] of drawn) bar.classList.toggle("hit", Boolean(hits && hits.has(at)));
}

// --- moving

function zoom(at) {
  zoomed = at;
  here = at;
  draw();
  point(at);
}

function point(at) {
  drawn.get(here)?.classList.remove("here");
  here = at;
  const bar = drawn.get(at);
  if (bar) {
    bar.classList.add("here");
    bar.scrollIntoView({ block: "nearest" });
  }
  tell(at);
}

function step(key) {
  const now = here >= 0 && drawn.has(here) ? here : zoomed;
  if (key === "ArrowUp") return tree.parent[now];
  if (key === "ArrowDown") return children(now).find(each => drawn.has(each)) ?? -1;
  if (tree.parent[now] < 0) return -1;
  const beside = children(tree.parent[now]).filter(each => drawn.has(each)), place = beside.indexOf(now);
  return beside[place + (key === "ArrowRight" ? 1 : -1)] ?? -1;
}

graph.addEventListener("click", event => {
  const bar = event.target.closest(".call");
  if (bar) zoom(Number(bar.dataset.at));
});
graph.addEventListener("pointerover", event => {
  const bar = event.target.closest(".call");
  if (bar) tell(Number(bar.dataset.at));
});
graph.addEventListener("pointerleave", () => tell(here >= 0 ? here : zoomed));
graph.addEventListener("focus", () => { if (here < 0) point(zoomed); });
graph.addEventListener("keydown", event => {
  if (event.key.startsWith("Arrow")) {
    const next = step(event.key);
    if (next >= 0) point(next);
  } else if (event.key === "Enter" && here >= 0) {
    zoom(here);
  } else return;
  event.preventDefault();
});
addEventListener("keydown", event => {
  if (event.key === "Escape") {
    if (search.value) { search.value = ""; mark(); write(); } else if (zoomed) zoom(Math.max(tree.parent[zoomed], 0));
    graph.focus();
  } else if (event.target === search || event.target === threads || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (event.key === "/") {
    search.focus();
  } else if (event.key in boxes) {
    boxes[event.key].checked = !boxes[event.key].checked;
    choose();
    write();
  } else if (event.key === "t" && data.threads.length) {
    threads.value = threads.value === "split" ? "" : "split";
    choose();
    write();
  } else return;
  event.preventDefault();
});

// --- the address says what is shown: #search=f&reversed=1&python=1&whole=1&thread=split&theme=dark

const boxes = { r: reversed, p: pythonOnly, w: whole };

function read() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (state.has("theme")) document.documentElement.dataset.theme = state.get("theme") === "dark" ? "dark" : "light";
  search.value = state.get("search") ?? "";
  for (const box of Object.values(boxes)) box.checked = state.get(box.id) === "1";
  threads.value = state.get("thread") ?? "";
  if (threads.selectedIndex < 0) threads.value = "";
  choose();
}

function write() {
  const state = new URLSearchParams();
  if (search.value) state.set("search", search.value);
  for (const box of Object.values(boxes)) if (box.checked) state.set(box.id, "1");
  if (threads.value) state.set("thread", threads.value);
  if (document.documentElement.dataset.theme) state.set("theme", document.documentElement.dataset.theme);
  history.replaceState(null, "", "#" + state);
}

let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { mark(); write(); }, SEARCHED_AFTER);
});
for (const box of [...Object.values(boxes), threads]) box.addEventListener("change", () => { choose(); write(); });
document.getElementById("reset").addEventListener("click", () => zoom(0));
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  write();
});
addEventListener("hashchange", read);
addEventListener("scroll", fill, { passive: true });
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
offerThreads();
graph.hidden = about.hidden = isEmpty;
read();
