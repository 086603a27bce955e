"use strict";
// Draws the tree of calls that stands in the page as JSON. All text is set as text; none of the data becomes markup.

const data = JSON.parse(document.getElementById("data").textContent);
const [graph, about, found, search, reversed, pythonOnly] =
  ["graph", "about", "found", "search", "reversed", "python"].map(id => document.getElementById(id));
const isDifference = document.body.dataset.difference === "1";
const WORDS = { python: "Python, in the interpreter", jit: "Python, in JIT code", native: "C", kernel: "kernel" };
const ROW = 20, LEAST = 1, WIDE_ENOUGH = 24; // pixels
const SEARCHED_AFTER = 120; // milliseconds
const last = data.own.length - 1; // of two recordings the widths are the second's
const isPython = data.frames.map(frame => ["python", "jit"].includes(data.kinds[frame[1]]));

let tree = null; // the one that is shown
let zoomed = 0, here = -1, hits = null, drawn = new Map();

// --- trees, in preorder: frame, depth, parent, end (behind the last below), own and total weights of each recording

function asGiven() {
  const count = data.depths.length, own = data.own.map(weights => Float64Array.from(weights));
  return finished(Int32Array.from(data.frameOf), Int32Array.from(data.depths), own, count);
}

function finished(frame, depth, own, count) {
  const parent = new Int32Array(count), end = new Int32Array(count);
  const total = own.map(weights => Float64Array.from(weights)), open = [];
  for (let i = 0; i < count; i++) {
    while (open.length > depth[i]) end[open.pop()] = i;
    parent[i] = open.length ? open[open.length - 1] : -1;
    open.push(i);
  }
  while (open.length) end[open.pop()] = count;
  for (const weights of total) for (let i = count - 1; i > 0; i--) weights[parent[i]] += weights[i];
  return { frame, depth, parent, end, own, total, count };
}

// The same stacks, told otherwise: the innermost first, or without what is no Python.
function retold(from, isReversed, isPythonOnly) {
  const root = node(-1), path = [];
  for (let i = 0; i < from.count; i++) {
    path.length = from.depth[i];
    path.push(from.frame[i]);
    if (!from.own.some(weights => weights[i])) continue;
    let frames = path.slice(1);
    if (isPythonOnly) frames = frames.filter(frame => isPython[frame]);
    if (isReversed) frames.reverse();
    let at = root;
    for (const frame of frames) {
      let next = at.below.get(frame);
      if (!next) at.below.set(frame, next = node(frame));
      from.own.forEach((weights, which) => { next.total[which] += weights[i]; });
      at = next;
    }
    from.own.forEach((weights, which) => { at.own[which] += weights[i]; });
  }
  return flattened(root);

  function node(frame) { return { frame, own: data.own.map(() => 0), total: data.own.map(() => 0), below: new Map() }; }
}

function flattened(root) {
  const frame = [], depth = [], own = data.own.map(() => []), pending = [[root, 0]];
  while (pending.length) {
    const [at, level] = pending.pop();
    frame.push(at.frame);
    depth.push(level);
    at.own.forEach((weight, which) => own[which].push(weight));
    const below = [...at.below.values()].sort((a, b) => a.total[last] - b.total[last] || b.frame - a.frame);
    for (const each of below) pending.push([each, level + 1]);
  }
  return finished(Int32Array.from(frame), Int32Array.from(depth), own.map(each => Float64Array.from(each)), frame.length);
}

const given = asGiven();
const trees = new Map([["00", given]]);

function choose() { // which tree the boxes ask for
  const key = `${Number(reversed.checked)}${Number(pythonOnly.checked)}`;
  if (!trees.has(key)) trees.set(key, retold(given, reversed.checked, pythonOnly.checked));
  tree = trees.get(key);
  zoomed = 0;
  here = -1;
  mark();
  draw();
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
    bar.setAttribute("aria-label", `${title(at)}, ${percent(at)}`);
    bar.style.cssText = `left:${left}px;width:${Math.max(size, 1)}px;top:${y}px;background:${colour(at)}`;
    if (size >= WIDE_ENOUGH) bar.textContent = title(at); else bar.classList.add("narrow");
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
    parts.push(WORDS[data.kinds[frame[1]]]);
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
  }
  about.textContent = parts.join(" · ");
}

function legend() {
  const list = document.getElementById("legend");
  if (list.childElementCount) return;
  const kinds = new Map();
  for (let i = 1; i < given.count; i++) {
    const kind = data.kinds[data.frames[given.frame[i]][1]];
    kinds.set(kind, (kinds.get(kind) || 0) + given.own[last][i]);
  }
  const entries = isDifference
    ? [["var(--more3)", "more time than before"], ["var(--less3)", "less"], ["var(--rest)", "as before"]]
    : [...kinds].map(([kind, own]) => [`var(--${kind})`, `${WORDS[kind]} ${per(own / (given.total[0][0] || 1))}`]);
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
  } else if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (event.key === "/") {
    search.focus();
  } else if (event.key === "r" || event.key === "p") {
    const box = event.key === "r" ? reversed : pythonOnly;
    box.checked = !box.checked;
    choose();
    write();
  } else return;
  event.preventDefault();
});

// --- the address says what is shown: #search=f&reversed=1&python=1&theme=dark

function read() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (state.has("theme")) document.documentElement.dataset.theme = state.get("theme") === "dark" ? "dark" : "light";
  search.value = state.get("search") ?? "";
  reversed.checked = state.get("reversed") === "1";
  pythonOnly.checked = state.get("python") === "1";
  choose();
}

function write() {
  const state = new URLSearchParams();
  if (search.value) state.set("search", search.value);
  if (reversed.checked) state.set("reversed", "1");
  if (pythonOnly.checked) state.set("python", "1");
  if (document.documentElement.dataset.theme) state.set("theme", document.documentElement.dataset.theme);
  history.replaceState(null, "", "#" + state);
}

let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { mark(); write(); }, SEARCHED_AFTER);
});
for (const box of [reversed, pythonOnly]) box.addEventListener("change", () => { choose(); write(); });
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
read();
