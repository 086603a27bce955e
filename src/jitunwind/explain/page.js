"use strict";
// Shows the regions that stand in the page as JSON: one at a time, searched and with their jumps drawn.
// All text is set as text; nothing of the page's data becomes markup.

const shared = JSON.parse(document.getElementById("shared").textContent);
const lines = [...document.querySelectorAll("[data-region]")];
const search = document.getElementById("search");
const differing = document.getElementById("differing");
const found = document.getElementById("found");
const room = document.getElementById("region");
const list = document.querySelector(".list");
const UNREACHED = "no path reaches this";
const AT_ONCE = 3000; // instructions; more of a region are shown when asked for
const parsed = new Map();
let shown = { index: -1 };

function regionAt(index) {
  if (!parsed.has(index)) parsed.set(index, JSON.parse(document.getElementById(`region-${index}`).textContent));
  return parsed.get(index);
}

function sourceOf(number) { return number === null ? null : shared.sources[number]; }

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function plus(offset) { return "+0x" + offset.toString(16); }

// --- one region

function show(index, all) {
  const region = regionAt(index);
  shown = { index, region, rows: new Map(), blocks: [], chosen: null, links: new Map() };
  for (const line of lines) {
    const here = Number(line.dataset.region) === index;
    line.classList.toggle("here", here);
    const link = line.querySelector("a");
    if (here) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    if (here) list.scrollTop = line.offsetTop - list.clientHeight / 2;
  }
  const [file, first] = region.begin;
  const begin = first === undefined ? "" : region.name.endsWith(`:${file}`) ? `:${first}` : `, from ${file}:${first}`;
  const title = make("h2", "", `${region.number}: ${region.name}${begin}`);
  const runs = region.threads.length ? `, running now in thread ${region.threads.join(", ")}` : "";
  const about = make("p", "about", `${region.size.toLocaleString("en")} bytes at 0x${region.start}${runs}. Choose an instruction for all that is said of it.`);
  const listing = make("div", "listing");
  listing.tabIndex = 0;
  listing.setAttribute("role", "group");
  listing.setAttribute("aria-label", "Source, micro-ops and machine code; arrow keys go from instruction to instruction");
  const lanes = Math.max(1, ...region.jumps.map(jump => (jump[2] === null ? 0 : jump[2]) + 1));
  listing.style.setProperty("--lanes", lanes);
  const heads = make("div", "heads");
  for (const head of ["Python", "micro-op", "machine code, and the unwind row of each instruction"]) heads.append(make("div", "", head));
  listing.append(heads);
  let count = 0, before = null, left = 0;
  for (const block of region.blocks) {
    if (!all && count > AT_ONCE) { left += block[5].length / 3; continue; }
    const [, name, detail, from, skipped, code] = block;
    const source = sourceOf(from);
    const here = source ? `${source[1]}:${source[2]}` : "";
    const box = make("div", "block");
    const where = make("div", "place"), uop = make("div", "uop"), body = make("div", "code");
    if (here) {
      where.append(make("span", "where", `${source[1].split("/").pop()}:${source[2]}`));
      where.firstChild.title = `${source[1]}:${source[2]}`;
      if (source[3] !== null) where.append(make("span", "python", source[3].trim()));
    }
    uop.append(make("span", "name", name));
    const bytecode = source && source[4] !== null ? `bytecode ${source[4]}` : "";
    const said = [detail, bytecode].filter(Boolean).join(", ");
    if (said) uop.append(make("span", "detail", said));
    for (let i = 0; i < code.length; i += 3) {
      body.append(instruction(code[i], code[i + 1], code[i + 2], before));
      before = code[i + 2];
      count += 1;
    }
    if (skipped) body.append(make("div", "skipped", `${skipped.toLocaleString("en")} bytes that no path reaches: constants, padding`));
    box.append(where, uop, body);
    listing.append(box);
    shown.blocks.push({ box, block, where, uop, here });
  }
  const parts = [title, about];
  if (region.why) parts.push(make("p", "why", `Micro-ops are not told apart: ${region.why}.`));
  parts.push(listing);
  if (left) {
    const rest = make("button", "rest", `Show the other ${left.toLocaleString("en")} instructions`);
    rest.addEventListener("click", () => { show(index, true); mark(); });
    parts.push(rest);
  }
  room.replaceChildren(...parts);
  shown.listing = listing;
  listing.addEventListener("click", event => {
    const row = event.target.closest(".ins");
    if (row) choose(row, true);
  });
  listing.addEventListener("keydown", keys);
  listing.addEventListener("pointerover", event => light(event.target.closest(".ins")));
  listing.addEventListener("pointerleave", () => light(null));
  draw();
}

function instruction(offset, text, answer, before) {
  const said = shared.answers[answer], old = before === null ? null : shared.answers[before];
  const row = make("div", "ins");
  row.dataset.offset = offset;
  row.dataset.text = text;
  row.dataset.answer = answer;
  if (answer === before) row.classList.add("same");
  row.append(make("span", "gutter"), make("span", "at", plus(offset)), make("span", "text", shared.texts[text]));
  const cell = make("span", "row");
  if (said.row.length) {
    const known = new Map(old ? old.row : []);
    for (const [name, rule] of said.row) {
      const part = make(known.get(name) === rule ? "span" : "b", "part", `${name}=${rule}`);
      cell.append(part, " ");
    }
  } else {
    cell.append(make("span", said.reason ? "reason" : "unreached", said.reason ? `unknown: ${said.reason}` : UNREACHED));
  }
  for (const [name, , registers] of said.differs) {
    const table = shared.tables.length > 1 ? `${name}: ` : "";
    cell.append(make("span", "bad", `≠ ${table}${ranges(registers.map(r => r[0]))} `));
  }
  row.append(cell);
  if (said.differs.length) row.classList.add("differs");
  for (const difference of answer === before ? [] : said.differs) {
    if (old && JSON.stringify(old.differs.find(other => other[0] === difference[0])) === JSON.stringify(difference)) continue;
    row.append(make("div", "full", spelled(difference)));
  }
  shown.rows.set(offset, row);
  return row;
}

function ranges(names) { // r12 r13 r14 is r12–r14
  const said = [];
  for (const name of names) {
    const last = said[said.length - 1];
    if (/^r\d+$/.test(name) && last && last[1] === `r${name.slice(1) - 1}`) last[1] = name;
    else said.push([name, name]);
  }
  return said.map(([first, last]) => first === last ? first : `${first}–${last}`).join(" ");
}

function spelled([name, whole, registers]) {
  return `≠ ${name} says ${whole}: ${registers.map(([r, said, ours]) => `${r}=${said} for ${ours}`).join(", ")}`;
}

// --- an instruction chosen: all that is said of it

function choose(row, open) {
  const again = shown.chosen === row && row.querySelector(".more");
  if (shown.chosen) {
    shown.chosen.classList.remove("chosen");
    shown.chosen.querySelector(".more")?.remove();
  }
  shown.chosen = row;
  row.classList.add("chosen");
  if (open && !again) {
    const offset = Number(row.dataset.offset), said = shared.answers[row.dataset.answer];
    const more = make("div", "more");
    more.append(make("div", "", `0x${(BigInt("0x" + shown.region.start) + BigInt(offset)).toString(16)} (${plus(offset)})`));
    more.append(make("div", "", said.whole ? `recovered  ${said.whole}` : said.reason ? `unknown: ${said.reason}` : UNREACHED));
    for (const difference of said.full) more.append(make("div", "bad", spelled(difference)));
    for (const [name, reason] of said.silent) more.append(make("div", "", `${name}: ${reason}`));
    for (const jump of shown.region.jumps) {
      if (jump[0] === offset || jump[1] === offset) {
        const other = jump[0] === offset ? jump[1] : jump[0];
        const link = make("button", "", `${jump[0] === offset ? "jumps to" : "is jumped to from"} ${plus(other)}`);
        link.type = "button";
        link.addEventListener("click", event => { event.stopPropagation(); reveal(other); });
        more.append(link, " ");
      }
    }
    row.append(more);
  }
  light(row);
  draw();
}

function reveal(offset) {
  const row = shown.rows.get(offset);
  if (!row) return;
  row.closest(".block").classList.remove("missed");
  choose(row, false);
  row.scrollIntoView({ block: "center" });
}

function keys(event) {
  if (event.target !== shown.listing) return;
  const rows = [...shown.rows.values()].filter(row => row.offsetParent !== null);
  const now = rows.indexOf(shown.chosen);
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const next = rows[Math.min(Math.max(now + (event.key === "ArrowDown" ? 1 : -1), 0), rows.length - 1)];
    if (next) { choose(next, false); next.scrollIntoView({ block: "nearest" }); }
  } else if (event.key === "Enter" && now >= 0) {
    choose(shown.chosen, true);
  } else return;
  event.preventDefault();
}

// --- jumps

function draw() {
  const { listing, region } = shown;
  if (!listing) return;
  listing.querySelector("svg")?.remove();
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", "jumps");
  svg.setAttribute("aria-hidden", "true");
  const box = listing.getBoundingClientRect();
  const lane = parseFloat(getComputedStyle(listing).getPropertyValue("--lane"));
  const lanes = Number(listing.style.getPropertyValue("--lanes"));
  const spots = new Map();
  const spot = offset => {
    if (!spots.has(offset)) {
      const row = shown.rows.get(offset);
      const at = row && row.offsetParent !== null ? row.firstChild.nextSibling.getBoundingClientRect() : null;
      spots.set(offset, at && { x: at.left - box.left - 5, y: at.top - box.top + at.height / 2 });
    }
    return spots.get(offset);
  };
  shown.links = new Map();
  const heads = new Set();
  for (const [source, target, which] of region.jumps) {
    const from = spot(source), to = spot(target);
    if (!from || !to) continue;
    const group = document.createElementNS(NS, "g");
    if (which === null) group.setAttribute("class", "far");
    const x = from.x - 5 - ((which === null ? lanes - 1 : which) + .5) * lane;
    const wire = `M${from.x} ${from.y}H${x}V${to.y}H${to.x}`;
    for (const name of ["wire", "reach"]) path(group, name, wire);
    if (which === null) path(group, "stub", `M${from.x} ${from.y}h-9`); // the whole of it when it is asked for
    if (!heads.has(target)) path(group, "head", `M${to.x + 1} ${to.y}l-5 -3v6z`);
    heads.add(target);
    group.dataset.jump = `${source},${target}`;
    group.addEventListener("pointerover", () => group.classList.add("lit"));
    group.addEventListener("pointerout", () => group.classList.remove("lit"));
    for (const end of [source, target]) {
      if (!shown.links.has(end)) shown.links.set(end, []);
      shown.links.get(end).push(group);
    }
    svg.append(group);
  }
  svg.setAttribute("width", "1");
  svg.setAttribute("height", String(listing.offsetHeight));
  listing.append(svg);

  function path(group, name, d) {
    const element = document.createElementNS(NS, "path");
    element.setAttribute("class", name);
    element.setAttribute("d", d);
    group.append(element);
  }
}

function light(row) {
  for (const lit of room.querySelectorAll(".lit")) lit.classList.remove("lit");
  if (!row) return;
  for (const group of shown.links.get(Number(row.dataset.offset)) || []) {
    group.classList.add("lit");
    for (const end of group.dataset.jump.split(",")) shown.rows.get(Number(end))?.classList.add("lit");
  }
}

// --- search

function wanted() {
  const query = search.value.trim().toLowerCase();
  const has = text => text.toLowerCase().includes(query);
  const texts = shared.texts.map(has);
  const sources = shared.sources.map(each => [`${each[1]}:${each[2]}`, each[0], each[3] || ""].some(has));
  const inRows = /[=≠]/.test(query); // every row names registers: only what is said of them is looked for
  const answers = shared.answers.map(each => inRows && (has(each.whole) || each.full.some(d => has(spelled(d)))));
  const differs = shared.answers.map(each => each.differs.length > 0);
  const address = /^(0x)?[0-9a-f]{6,16}$/.test(query) ? BigInt(query.startsWith("0x") ? query : "0x" + query) : null;
  return {
    query,
    microOp: ([, name, detail]) => query !== "" && (has(name) || has(detail)),
    source: ([, , , number]) => query !== "" && number !== null && sources[number],
    // What of an instruction is looked for: "at", "text" or "row"; "" where nothing is.
    instruction: (offset, text, answer, start) => {
      if (differing.checked && !differs[answer]) return "";
      if (!query) return "row";
      if (texts[text]) return "text";
      if (answers[answer]) return "row";
      return plus(offset) === query || (address !== null && start + BigInt(offset) === address) ? "at" : "";
    },
  };
}

function mark() {
  const active = search.value.trim() !== "" || differing.checked;
  document.body.classList.toggle("searching", active);
  let total = 0, regions = 0, here = 0;
  const want = wanted();
  for (const line of lines) {
    const index = Number(line.dataset.region);
    const cell = line.querySelector(".hits");
    if (!active) { line.classList.remove("missed"); cell.textContent = ""; continue; }
    const region = regionAt(index), start = BigInt("0x" + region.start);
    let count = 0;
    for (const block of region.blocks) {
      const whole = want.microOp(block) || want.source(block), code = block[5];
      for (let i = 0; i < code.length; i += 3) {
        if ((whole && (!differing.checked || shared.answers[code[i + 2]].differs.length)) || want.instruction(code[i], code[i + 1], code[i + 2], start)) count += 1;
      }
      if (whole && !code.length && !differing.checked) count += 1; // a micro-op without machine code
    }
    total += count;
    if (count) regions += 1;
    if (index === shown.index) here = count;
    cell.textContent = count.toLocaleString("en");
    line.classList.toggle("missed", !count && index !== shown.index);
  }
  let place = "";
  for (const { box, block, where, uop, here: line } of shown.blocks) {
    const byName = active && want.microOp(block), bySource = active && want.source(block), whole = byName || bySource;
    let any = whole && !differing.checked;
    for (const row of box.querySelectorAll(".ins")) {
      const { offset, text, answer } = row.dataset;
      const hit = active ? want.instruction(Number(offset), Number(text), Number(answer), BigInt("0x" + shown.region.start)) : "";
      if (hit && want.query) row.dataset.hit = hit; else delete row.dataset.hit;
      any = any || hit !== "" || (whole && row.classList.contains("differs"));
    }
    uop.classList.toggle("hit", byName);
    where.classList.toggle("hit", bySource);
    box.classList.toggle("missed", active && !any);
    if (active && !any) continue;
    box.classList.toggle("again", line === place || !line); // its line stands above already
    place = line || place;
  }
  found.textContent = active
    ? said(total, regions, here)
    : "";
  nothing(active && !here, total);
  draw();
}

function said(total, regions, here) {
  if (!total) return search.value.trim() ? `Nothing found for “${search.value.trim()}”${differing.checked ? " among differing rows" : ""}.` : "No row has other differences than those above.";
  return `${many(total, "instruction")} found in ${many(regions, "region")}, ${here.toLocaleString("en")} of them here`;
}

function many(count, what) { return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`; }

function nothing(empty, elsewhere) { // an empty listing says why it is
  shown.listing?.querySelector(".nothing")?.remove();
  if (!empty || !shown.listing) return;
  const text = elsewhere ? "Nothing of it in this region: the list above has where it is." : found.textContent;
  shown.listing.append(make("p", "nothing", text));
}

// --- the address bar says what is shown: #region=3&search=rbp&differing=1&theme=dark&at=1f

function read() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (state.has("theme")) document.documentElement.dataset.theme = state.get("theme") === "dark" ? "dark" : "light";
  search.value = state.get("search") ?? search.value;
  differing.checked = state.has("differing") ? state.get("differing") === "1" : differing.checked;
  const index = Number(state.get("region") ?? Math.max(shown.index, 0));
  if (index !== shown.index && index >= 0 && index < lines.length) show(index, false);
  mark();
  if (state.has("at")) reveal(parseInt(state.get("at"), 16));
}

function write() {
  const state = new URLSearchParams();
  state.set("region", shown.index);
  if (search.value) state.set("search", search.value);
  if (differing.checked) state.set("differing", "1");
  if (document.documentElement.dataset.theme) state.set("theme", document.documentElement.dataset.theme);
  history.replaceState(null, "", "#" + state);
}

let waiting = 0;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { mark(); write(); }, 120); });
differing.addEventListener("change", () => { mark(); write(); });
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  write();
});
addEventListener("hashchange", read);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
document.querySelector(".regions details").addEventListener("toggle", draw);
read();
