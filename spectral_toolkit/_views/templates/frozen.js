"use strict";
// Draws what is in the block: `state` says what, `paint` is called after every change, and no request ever leaves the page.
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";

// All text is inserted as text: a name is never read as markup.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

async function unpack() {
  const bytes = Uint8Array.from(atob($("#block").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return [head, new Uint8Array(buffer, 4 + length)];
}

let head, data;
const state = { image: 0, component: 0, view: "component", compare: false, threshold: null, patch: null, cell: null, sides: [] };

const array = (place) => data.subarray(place.at, place.at + place.shape.reduce((a, b) => a * b, 1));
const setting = (side) =>
  head.settings[state.sides[side].kind * head.presets.length + state.sides[side].preset][state.image];
const gridOf = (one) => one.fields.shape.slice(1);
const signed = (value) => (value < 0 ? "−" : "") + Math.abs(value).toPrecision(3);

// --- colours ---------------------------------------------------------------------------------------------------------

function field(one, component) {
  const [, rows, columns] = one.fields.shape;
  return array(one.fields).subarray(component * rows * columns, (component + 1) * rows * columns);
}

function mapped(values, map) {
  const pixels = new Uint8ClampedArray(4 * values.length);
  values.forEach((value, place) => pixels.set([map[3 * value], map[3 * value + 1], map[3 * value + 2], 255], 4 * place));
  return pixels;
}

function valueOf(one, component, place) {
  return ((2 * field(one, component)[place]) / 255 - 1) * one.limits[component];
}

// One scale for all three: the magnitude that 99 per cent of their values do not exceed, as in st.overlay.
function threeColours(one) {
  const [rows, columns] = gridOf(one);
  const n = rows * columns;
  const values = [0, 1, 2].map((c) => Float32Array.from({ length: n }, (_, place) => valueOf(one, c, place)));
  const sizes = values.flatMap((three) => [...three].map(Math.abs)).sort((a, b) => a - b);
  const at = 0.99 * (sizes.length - 1);
  const limit = sizes[Math.floor(at)] + (at % 1) * (sizes[Math.ceil(at)] - sizes[Math.floor(at)]) || 1;
  const pixels = new Uint8ClampedArray(4 * n).fill(255);
  values.forEach((three, c) => three.forEach((v, place) => (pixels[4 * place + c] = 127.5 * (1 + v / limit))));
  return pixels;
}

function labelColours(labels) {
  const pixels = new Uint8ClampedArray(4 * labels.length);
  labels.forEach((label, place) => {
    const at = 3 * ((label - 1) % (head.maps.labels.length / 3));
    if (label) pixels.set([...head.maps.labels.slice(at, at + 3), 255], 4 * place);
  });
  return pixels;
}

// Masks may overlap: the smaller one lies on top, and a patch is counted to it.
function instanceLabels(one) {
  const [count, rows, columns] = one.instances.shape;
  const n = rows * columns;
  const masks = Array.from({ length: count }, (_, k) => array(one.instances).subarray(k * n, (k + 1) * n));
  const size = masks.map((mask) => mask.reduce((a, b) => a + b, 0));
  const order = [...masks.keys()].sort((a, b) => size[b] - size[a]);
  const labels = new Uint8Array(n);
  for (const k of order) masks[k].forEach((inside, place) => inside && (labels[place] = k + 1));
  return labels;
}

function componentColours(one, sides) {
  const pixels = mapped(field(one, state.component), head.maps.signs);
  if (sides) sides.forEach((is, place) => is || (pixels[4 * place + 3] = 0));
  return pixels;
}

// How each view is drawn; `head.views` says which of these belongs to the view of a tab. Those with `colours` lie over one
// large image, and `read` says what is under the cursor; the others are drawn by `small`.
const number = () => head.components[state.component];
const labelled = (labelsOf, name) => ({
  colours: (one) => labelColours(labelsOf(one)),
  read: (one, place) => (labelsOf(one)[place] ? `${name} ${labelsOf(one)[place]}` : "none"),
  labels: true, // a colour between two labels would look like a third label
  title: () => `${name}s`,
});
const drawings = {
  component: {
    colours: componentColours,
    read: (one, place) => signed(valueOf(one, state.component, place)),
    cut: true, component: true, numbers: true,
    title: () => `eigenvector ${number()}`,
  },
  grid: { small: showGrid, title: () => "all eigenvectors" },
  rgb: {
    colours: threeColours,
    read: (one, place) => [0, 1, 2].map((c) => signed(valueOf(one, c, place))).join(", "),
    title: () => `eigenvectors ${head.components.slice(0, 3).join(", ")} as RGB`,
  },
  segments: labelled((one) => array(one.segments), "segment"),
  instances: labelled(instanceLabels, "instance"),
  spectrum: { small: showSpectrum, component: true, title: () => "spectrum" },
  drawn: { small: showDrawn, title: () => head.views[state.view].title.toLowerCase() },
};
const drawing = () => drawings[head.views[state.view].page];

// Which patches are above the threshold, or null where nothing is cut. Fields are kept in 255 steps from the lowest to the
// highest colour.
function sidesOf(one) {
  if (!drawing().cut || state.threshold === null) return null;
  return [...field(one, state.component)].map((value) => (2 * value) / 255 - 1 > state.threshold);
}

// Where neighbours lie on different sides, as the path of an SVG; the image's own edge is not part of it.
function boundary(sides, [rows, columns]) {
  let path = "";
  sides.forEach((is, place) => {
    const [row, column] = [Math.floor(place / columns), place % columns];
    if (column + 1 < columns && is !== sides[place + 1]) path += `M${column + 1} ${row}v1`;
    if (row + 1 < rows && is !== sides[place + columns]) path += `M${column} ${row + 1}h1`;
  });
  return path;
}

// --- images ----------------------------------------------------------------------------------------------------------

function stage(node = make("div", { class: "stage" })) {
  node.append(make("img", { alt: "" }), make("canvas"), draw("svg", { preserveAspectRatio: "none" }));
  return node;
}

function show(node, [rows, columns], pixels, label, image = state.image) {
  const picture = head.images[image];
  node.style.setProperty("--ratio", picture.ratio);
  $("img", node).src = $$(".thumbnail .picture")[image].src;
  const canvas = $("canvas", node);
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d").putImageData(new ImageData(pixels, columns, rows), 0, 0);
  if (node.getAttribute("role") === "application") node.setAttribute("aria-label", label);
  else {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  $("svg", node).replaceChildren();
  $("svg", node).setAttribute("viewBox", `0 0 ${columns} ${rows}`);
}

function outline(node, [row, column], classes) {
  for (const name of classes) $("svg", node).append(draw("rect", { x: column, y: row, width: 1, height: 1, class: name }));
}

function hatch(node, cells) {
  for (const [row, column] of cells) {
    $("svg", node).append(
      draw("rect", { x: column, y: row, width: 1, height: 1, class: "isolated" }),
      draw("path", { d: `M${column} ${row + 1}l1-1`, class: "hatch" }),
    );
  }
}

// The patch whose rows were kept, on a finer grid: the middle of each patch of the coarse grid.
const kept = (size, place, of) => Math.floor(((place + 0.5) * size) / of);

function patchOn([rows, columns]) {
  return [kept(rows, state.patch[0], head.sources[0]), kept(columns, state.patch[1], head.sources[1])];
}

function nearestSource(y, x) {
  return [y, x].map((part, axis) => Math.max(0, Math.min(head.sources[axis] - 1, Math.floor(part * head.sources[axis]))));
}

// --- what surrounds the images ---------------------------------------------------------------------------------------

const named = (side) => head.kinds[state.sides[side].kind];
const layersOf = (side) => head.presets[state.sides[side].preset];

function title(side) {
  const { label } = named(side);
  const { name, weights } = layersOf(side);
  const on = weights.filter((weight) => weight > 0).length;
  return `${label}, ${name === "all" ? "all layers" : `${name} layers (${on} of ${weights.length})`}: ${drawing().title()}`;
}

function readout(side) {
  const one = setting(side);
  const grid = gridOf(one);
  if (!state.cell) return "";
  const [row, column] = state.cell.map((part, axis) => Math.min(grid[axis] - 1, Math.floor(part * grid[axis])));
  const place = row * grid[1] + column;
  return `row ${row}, column ${column}: ${drawing().read(one, place)}`;
}

// The share of patches above the threshold; isolated patches do not count.
function showShare(section, one, sides) {
  const node = $(".share", section);
  node.hidden = !sides;
  if (!sides) return;
  const [, columns] = gridOf(one);
  const lost = new Set(one.isolated.map(([row, column]) => row * columns + column));
  const counted = sides.filter((_, place) => !lost.has(place));
  const share = counted.filter(Boolean).length / Math.max(1, counted.length);
  node.textContent = `Above ${state.threshold.toFixed(2).replace("-", "−")}: ${Math.round(100 * share)} % of the patches.`;
}

function showNumbers(section, one) {
  const { numbers } = drawing();
  const words = { eigenvalue: "eigenvalue", eigengap: "gap to the next", residual: "residual" };
  const pairs = Object.entries(words).map(([name, label]) => [label, one.numbers[name][state.component]]);
  $(".numbers", section).replaceChildren(
    ...(numbers ? pairs : [])
      .filter(([, value]) => value !== null)
      .map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, String(value)))),
  );
  const flags = numbers ? one.flags[state.component] : [];
  $(".flags", section).replaceChildren(...flags.map((flag) => make("span", {}, flag)));
  const levels = { ok: "Sound", note: "Note", warning: "Warning" };
  $(".trust", section).replaceChildren(
    ...one.trust.map(([level, text]) => make("li", { class: level }, make("b", {}, levels[level]), text)),
  );
}

function rowFigure(values, grid, words, classes) {
  const node = stage();
  show(node, grid, mapped(values, head.maps.amounts), words);
  outline(node, patchOn(grid), ["under", "mark"]);
  return make("figure", { class: classes }, node, make("figcaption"));
}

function showRows(section, side, one) {
  const box = $(".rows", section);
  if (!box) return;
  if (!state.patch) {
    box.replaceChildren(make("p", { class: "invite" }, "Tap a patch in the image to see its affinities to all others."));
    return;
  }
  const [rows, columns] = one.rows.shape.slice(-2);
  const source = state.patch[0] * head.sources[1] + state.patch[1];
  const [row, column] = patchOn([rows, columns]);
  const { key, label } = named(side);
  const patch = `the patch in row ${row}, column ${column}`;
  const cut = (place) => {
    const n = place.shape.slice(1).reduce((a, b) => a * b, 1);
    return array(place).subarray(source * n, (source + 1) * n);
  };
  const all = cut(one.rows), across = head.scope === "dataset"; // of one problem, the row goes to every image
  const own = across ? all.subarray(state.image * rows * columns, (state.image + 1) * rows * columns) : all;
  const joint = rowFigure(own, [rows, columns], `${label} affinity of ${patch} to all others, all chosen layers`, "joint");
  $("figcaption", joint).textContent = "all chosen layers, jointly";
  const weights = layersOf(side).weights;
  const small = head.rows[key].map(([name, images], layer) => {
    const place = images[state.image];
    const figure = rowFigure(cut(place), place.shape.slice(1), `${label} affinity of ${patch}, layer ${name}`, weights[layer] ? "" : "is-off");
    $("figcaption", figure).textContent = weights[layer] ? `layer ${name}` : `layer ${name}, not chosen`;
    return figure;
  });
  box.replaceChildren(
    make("h3", {}, `${label} affinities of ${patch}`),
    joint,
    make("p", { class: "amounts", "aria-hidden": "true" }, "none", make("i"), "strongest"),
    make("div", { class: "layers" }, ...small),
    ...(across ? [connectedImages(all, [rows, columns])] : []),
  );
}

function showGrid(section, one) {
  const tiles = head.components.map((number, component) => {
    const node = stage();
    show(node, gridOf(one), mapped(field(one, component), head.maps.signs), `Eigenvector ${number}`);
    hatch(node, one.isolated);
    const value = one.numbers.eigenvalue[component];
    const flagged = one.flags[component].length ? " ⚠" : "";
    const button = make("button", { type: "button", "aria-pressed": component === state.component }, node,
      make("span", { class: "name" }, `${number}   λ = ${value}${flagged}`));
    button.title = one.flags[component].join("; ");
    button.addEventListener("click", () => {
      choose("component", component);
      set({ component, view: "component" });
    });
    return button;
  });
  $(".small", section).replaceChildren(make("div", { class: "tiles" }, ...tiles));
}

// What was drawn beforehand: tiles over the image, or an image of a chart.
function showDrawn(section, one) {
  const drawn = one.drawn[state.view];
  if (typeof drawn === "string") {
    const chart = make("img", { src: drawn, alt: title(Number(section.dataset.side)), class: "chart" });
    $(".small", section).replaceChildren(chart);
    return;
  }
  const tiles = drawn.map((tile) => {
    const node = stage();
    const [rows, columns] = tile.colours.shape;
    show(node, [rows, columns], new Uint8ClampedArray(array(tile.colours)), tile.caption || title(Number(section.dataset.side)));
    const [high, wide] = [rows / tile.grid[0], columns / tile.grid[1]];
    for (const [row, column] of tile.framed) {
      const box = { x: column * wide, y: row * high, width: wide, height: high };
      for (const name of ["under", "mark"]) $("svg", node).append(draw("rect", { ...box, class: name }));
    }
    const d = tile.lines.map(([x0, y0, x1, y1]) => `M${x0 * columns} ${y0 * rows}L${x1 * columns} ${y1 * rows}`).join("");
    for (const name of d ? ["casing", "cut"] : []) $("svg", node).append(draw("path", { d, class: name }));
    return make("figure", {}, node, make("figcaption", { class: "name" }, tile.caption));
  });
  $(".small", section).replaceChildren(make("div", { class: tiles.length > 1 ? "tiles" : "tile-alone" }, ...tiles));
}

function showSpectrum(section, one) {
  const chart = one.spectrum;
  const svg = draw("svg", { class: "spectrum", viewBox: `0 0 ${chart.width} ${chart.height}`, role: "img" });
  const gapWords = chart.gap ? ` The widest gap comes after component ${chart.gap_after}.` : "";
  svg.setAttribute("aria-label", chart.description + gapWords);
  for (const [y, label] of chart.ticks) {
    svg.append(
      draw("line", { class: "rule", x1: chart.left, x2: chart.width - 8, y1: y, y2: y }),
      draw("text", { class: "tick", x: chart.left - 6, y: y + 3.5, "text-anchor": "end" }, label),
    );
  }
  if (chart.gap) {
    const [, high, low] = chart.gap;
    svg.append(
      draw("rect", { class: "gap", x: chart.left, width: chart.width - 8 - chart.left, y: high, height: Math.max(0, low - high) }),
      draw("text", { class: "gap-label", x: chart.left + 4, y: 15 }, `widest gap: after component ${chart.gap_after}`),
    );
  }
  for (const [from, to, y] of chart.groups) svg.append(draw("path", { class: "group", d: `M${from} ${y}v4H${to}v-4` }));
  chart.points.forEach((point, component) => {
    const group = draw("g", { class: component === state.component ? "is-current" : "" });
    group.append(
      draw("line", { class: "stem", x1: point.x, x2: point.x, y1: chart.bottom, y2: point.y }),
      draw("circle", { cx: point.x, cy: point.y, r: component === state.component ? 5.5 : 3.5 }),
      draw("text", { class: "tick", x: point.x, y: chart.bottom + 15, "text-anchor": "middle" }, point.label),
    );
    svg.append(group);
  });
  $(".small", section).replaceChildren(make("div", { class: "charts" }, svg, shares(one.layers[state.component])));
}

function shares(bars) {
  const longest = Math.max(...bars.flatMap(([, mass, share]) => [mass, share]), 1e-9);
  const dearest = Math.max(...bars.map(([, , , cut]) => cut ?? 0), 1);
  const cell = (part, most, words) => {
    const bar = make("i");
    bar.style.width = `${(90 * part) / most}%`;
    return make("td", {}, bar, words);
  };
  const share = (part) => cell(part, longest, `${Math.round(100 * part)} %`);
  const rows = bars.map(([name, mass, part, cut]) => {
    const last = cut === null ? make("td", {}, "no edges") : cell(cut, dearest, cut.toPrecision(3));
    return make("tr", {}, make("th", { scope: "row" }, name), share(mass), share(part), last);
  });
  const names = ["Layer", "Share of degrees", "Share of λ", "Cut value"].map((name) => make("th", { scope: "col" }, name));
  return make("table", { class: "shares" },
    make("caption", {}, `Component ${head.components[state.component]}, layer by layer`),
    make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows));
}

// --- one change, one repaint -----------------------------------------------------------------------------------------

function paintSide(side) {
  const section = $$(".side")[side];
  section.hidden = side > 0 && (!state.compare || head.views[state.view].alone);
  if (section.hidden) return;
  const one = setting(side);
  const { colours, cut, labels, small } = drawing();
  const large = !small;
  $("h2", section).textContent = title(side);
  $(".large", section).hidden = $(".facing", section).hidden = !large;
  $(".small", section).hidden = large;
  if (large) {
    const node = $(".stage", section);
    const sides = sidesOf(one);
    show(node, gridOf(one), colours(one, sides), `${title(side)}, over ${head.images[state.image].name}. Arrow keys choose a patch.`);
    $("canvas", node).classList.toggle("labels", Boolean(labels));
    hatch(node, one.isolated);
    if (sides) {
      const d = boundary(sides, gridOf(one));
      for (const name of ["casing", "cut"]) $("svg", node).append(draw("path", { d, class: name }));
    }
    if (state.patch) outline(node, patchOn(gridOf(one)), ["under", "mark"]);
    const limit = one.limits[state.component].toPrecision(3);
    const ends = $$(".scale span", section);
    ends[0].textContent = `−${limit}`;
    ends[1].textContent = limit;
    $(".scale", section).hidden = !cut;
    showShare(section, one, sides);
    showRows(section, side, one);
  } else small(section, one);
  showNumbers(section, one);
  paintCursor(side);
}

// The cursor is linked: both sides show the patch under it, and their values there.
function paintCursor(side) {
  const section = $$(".side")[side];
  if (section.hidden || $(".large", section).hidden) return;
  const svg = $(".large svg", section);
  $$(".pointer", svg).forEach((old) => old.remove());
  const grid = gridOf(setting(side));
  if (state.cell) {
    const cell = state.cell.map((part, axis) => Math.min(grid[axis] - 1, Math.floor(part * grid[axis])));
    outline($(".large .stage", section), cell, ["pointer"]);
  }
  $(".readout", section).textContent = readout(side) || "Point at a patch to read its value.";
}

function paint() {
  for (const tab of $$("[role=tab]")) {
    const selected = tab.dataset.view === state.view;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    if (selected) {
      $("#drawn").setAttribute("aria-labelledby", tab.id);
      $("#view-words").textContent = tab.title;
    }
  }
  $("#cutting").hidden = !drawing().cut;
  $("#threshold").disabled = !$("#cut").checked;
  $("#components").hidden = !drawing().component;
  $("#sides").classList.toggle("is-compare", state.compare);
  $("#other").hidden = !state.compare;
  state.sides.forEach((chosen, side) => {
    const { name, groups, formula } = head.kinds[chosen.kind];
    $(`[data-words=kind${side}]`).textContent = `${name}${groups ? `: found to group by ${groups}` : ""}. ${formula}.`;
    const { weights } = head.presets[chosen.preset];
    const marks = weights.map((weight) => make("i", { class: weight > 0 ? "is-on" : "" }));
    const depth = $(`[data-depth=preset${side}]`);
    depth.replaceChildren(...marks);
    depth.title = weights.map((weight, layer) => `layer ${head.layers[layer]}: ${weight}`).join("\n");
  });
  [0, 1].forEach(paintSide);
}

function set(changes) {
  Object.assign(state, changes);
  paint();
}

function choose(name, value) {
  const radio = $(`input[name=${name}][value="${value}"]`);
  if (radio) radio.checked = true;
}

function step(by) {
  const component = state.component + by;
  if (component < 0 || component >= head.components.length) return;
  choose("component", component);
  set({ component });
}

// --- controls --------------------------------------------------------------------------------------------------------

const checked = (name) => Number($(`input[name=${name}]:checked`).value);

function read() {
  Object.assign(state, {
    image: checked("image"),
    component: checked("component"),
    compare: $("#compare").checked,
    threshold: $("#cut").checked ? Number($("#threshold").value) : null,
    sides: [0, 1].map((side) => ({ kind: checked(`kind${side}`), preset: checked(`preset${side}`) })),
  });
}

function showOpacity() {
  const percent = $("#opacity").value;
  document.documentElement.style.setProperty("--opacity", percent / 100);
  $("#opacity-value").textContent = `${percent} %`;
}

function showThreshold() {
  $("#threshold-value").textContent = Number($("#threshold").value).toFixed(2).replace("-", "−");
}

function listenToTabs() {
  const tabs = $$("[role=tab]");
  for (const [place, tab] of tabs.entries()) {
    tab.addEventListener("click", () => set({ view: tab.dataset.view }));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const next = tabs[(place + by + tabs.length) % tabs.length];
      set({ view: next.dataset.view });
      next.focus();
    });
  }
}

function listenToStage(node) {
  const inside = (event) => {
    const box = node.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((part) =>
      Math.max(0, Math.min(0.999999, part)));
  };
  const moved = (cell) => {
    state.cell = cell;
    [0, 1].forEach(paintCursor);
  };
  node.addEventListener("pointermove", (event) => moved(inside(event)));
  node.addEventListener("pointerleave", () => moved(null));
  node.addEventListener("click", (event) => head.sources && set({ patch: nearestSource(...inside(event)) }));
  node.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") set({ patch: null, cell: null });
    if (!by || !head.sources) return;
    event.preventDefault();
    event.stopPropagation();
    const from = state.patch || head.sources.map((n) => Math.floor((n - 1) / 2));
    const to = state.patch ? from.map((part, axis) => Math.max(0, Math.min(head.sources[axis] - 1, part + by[axis]))) : from;
    set({ patch: to, cell: to.map((part, axis) => (part + 0.5) / head.sources[axis]) });
  });
}

async function begin() {
  [head, data] = await unpack();
  const start = JSON.parse($("#start").textContent);
  document.body.classList.remove("is-still");
  $("#still").hidden = true;
  $("#switches").hidden = $("#main").hidden = false;
  for (const node of $$(".large .stage")) {
    stage(node);
    listenToStage(node);
  }
  listenToTabs();
  const controls = $("#controls");
  controls.addEventListener("submit", (event) => event.preventDefault());
  for (const part of [controls, $("#components"), $("#cutting")]) {
    part.addEventListener("change", (event) => {
      if (event.target.id === "smooth") document.body.classList.toggle("is-smooth", event.target.checked);
      read();
      paint();
    });
  }
  $("#opacity").addEventListener("input", showOpacity);
  $("#threshold").addEventListener("input", () => {
    showThreshold();
    read();
    paint();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, button, summary")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  state.view = start.view;
  if (start.patch && head.sources) state.patch = nearestSource(...start.patch);
  // A browser that returns to this page may have kept the controls as they were.
  document.body.classList.toggle("is-smooth", $("#smooth").checked);
  showOpacity();
  showThreshold();
  read();
  paint();
  document.body.dataset.ready = "true";
}

begin().catch((error) => {
  $("#still").textContent = `This browser cannot show the page (${error.message}): use a browser from 2023 or later.`;
  $("#still").hidden = false;
});
