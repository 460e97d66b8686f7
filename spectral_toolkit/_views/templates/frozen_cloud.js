
// --- all patches as a cloud, on a plain canvas; and a patch's affinities to every image -------------------------------

const cloud = { across: 0, up: 1, colour: "pixels", chosen: new Set() };
const CORNERS = [[230, 70, 60], [240, 200, 40], [70, 60, 190], [40, 170, 120]]; // as in patch_colours.py
const imagesShown = () => (head.scope === "dataset" ? [...head.images.keys()] : [state.image]);
const settingOf = (side, image) =>
  head.settings[state.sides[side].kind * head.presets.length + state.sides[side].preset][image];
const labelInk = (label) => {
  const at = 3 * ((label - 1) % (head.maps.labels.length / 3));
  return head.maps.labels.slice(at, at + 3);
};

// The mean colours of the pixels of every patch, from the image that is in the page already.
function meanColours(image, rows, columns) {
  const picture = $$(".thumbnail .picture")[image];
  if (!picture.complete || !picture.naturalWidth) {
    picture.addEventListener("load", paint, { once: true });
    return null;
  }
  const canvas = make("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, columns, rows);
  return context.getImageData(0, 0, columns, rows).data;
}

function inkOf(how, one, image, place, means) {
  const [rows, columns] = gridOf(one);
  if (how === "segment") return labelInk(array(one.segments)[place] || 1);
  if (how === "image") return labelInk(image + 1);
  if (how === "pixels") return means ? [...means.slice(4 * place, 4 * place + 3)] : [128, 128, 128];
  const [y, x] = [Math.floor(place / columns) / Math.max(1, rows - 1), (place % columns) / Math.max(1, columns - 1)];
  const parts = [(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x];
  return [0, 1, 2].map((c) => Math.round(parts.reduce((sum, part, k) => sum + part * CORNERS[k][c], 0)));
}

function pointsOf(side) {
  return imagesShown().flatMap((image) => {
    const one = settingOf(side, image);
    const [rows, columns] = gridOf(one);
    const means = cloud.colour === "pixels" ? meanColours(image, rows, columns) : null;
    return Array.from({ length: rows * columns }, (_, place) => ({
      image, rows, columns, row: Math.floor(place / columns), column: place % columns,
      x: valueOf(one, cloud.across, place), y: valueOf(one, cloud.up, place),
      ink: inkOf(cloud.colour, one, image, place, means),
      key: `${image} ${Math.floor(place / columns)} ${place % columns} ${rows} ${columns}`,
    }));
  });
}

function chooser(words, options, value, change) {
  const select = make("select", {}, ...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
  select.addEventListener("change", () => {
    change(select.value);
    paint();
  });
  return make("label", { class: "cloud-choice" }, words, " ", select);
}

function showCloud(section, one) {
  const side = Number(section.dataset.side);
  const numbers = head.components.map((number, place) => [place, `eigenvector ${number}`]);
  const colours = [["pixels", "own pixels"], ["position", "position"]];
  if (head.scope === "dataset") colours.push(["image", "image"]);
  if (one.segments) colours.push(["segment", "segment"]);
  const points = pointsOf(side);
  const canvas = make("canvas", { class: "cloud", role: "img", "aria-label": `${title(side)}: ${points.length} patches` });
  const chosen = points.filter((point) => cloud.chosen.has(point.key));
  const clear = make("button", { type: "button", class: "cloud-clear" }, "Choose none");
  clear.addEventListener("click", () => {
    cloud.chosen.clear();
    paint();
  });
  const count = chosen.length ? `${chosen.length} of ${points.length} patches chosen.` : `${points.length} patches.`;
  const words = `${count} Draw a box round points to choose their patches; tap a point to go to its patch.`;
  $(".small", section).replaceChildren(
    make("div", { class: "cloud-choices" },
      chooser("Across", numbers, cloud.across, (value) => (cloud.across = Number(value))),
      chooser("Up", numbers, cloud.up, (value) => (cloud.up = Number(value))),
      chooser("Coloured by", colours, cloud.colour, (value) => (cloud.colour = value)),
      ...(chosen.length ? [clear] : [])),
    canvas, make("p", { class: "hint" }, words), litImages(chosen));
  drawCloud(canvas, points, chosen.length > 0);
}

function drawCloud(canvas, points, some) {
  const wide = canvas.clientWidth || 480, high = Math.round(wide * 0.72), ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [wide * ratio, high * ratio];
  canvas.style.aspectRatio = `${wide} / ${high}`;
  const context = canvas.getContext("2d"), ink = getComputedStyle(document.body).color;
  const ends = ["x", "y"].map((side) => points.map((point) => point[side])).map((all) => [Math.min(...all), Math.max(...all)]);
  const at = ({ x, y }) => [
    28 + ((x - ends[0][0]) / (ends[0][1] - ends[0][0] || 1)) * (wide - 40),
    high - 28 - ((y - ends[1][0]) / (ends[1][1] - ends[1][0] || 1)) * (high - 40),
  ];
  const places = points.map(at);
  const tapped = (point) => state.patch && point.image === state.image &&
    patchOn([point.rows, point.columns]).join() === [point.row, point.column].join();
  const redraw = (box) => {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, high);
    context.fillStyle = ink;
    context.font = "12px system-ui";
    context.fillText(`eigenvector ${head.components[cloud.across]} →`, 28, high - 8);
    context.save();
    context.rotate(-Math.PI / 2);
    context.fillText(`eigenvector ${head.components[cloud.up]} →`, 28 - high, 14);
    context.restore();
    points.forEach((point, place) => {
      const lit = cloud.chosen.has(point.key);
      context.globalAlpha = some && !lit ? 0.2 : 0.9;
      context.fillStyle = `rgb(${point.ink})`;
      context.beginPath();
      context.arc(...places[place], lit ? 4 : 3, 0, 7);
      context.fill();
      context.globalAlpha = some && !lit ? 0.15 : 0.6;
      context.strokeStyle = lit ? "#d55e00" : "#808080";
      context.lineWidth = lit ? 1.5 : 0.5;
      context.stroke();
    });
    context.globalAlpha = 1;
    context.strokeStyle = ink;
    context.lineWidth = 2;
    points.forEach((point, place) => {
      if (!tapped(point)) return;
      context.beginPath();
      context.arc(...places[place], 7, 0, 7);
      context.stroke();
    });
    context.lineWidth = 1;
    if (box) context.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  };
  redraw();
  let from = null;
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * wide, ((event.clientY - box.top) / box.height) * high];
  };
  canvas.addEventListener("pointerdown", (event) => {
    from = where(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => from && redraw([...from, ...where(event)]));
  canvas.addEventListener("pointerup", (event) => {
    const to = where(event), away = ([x, y]) => Math.hypot(x - to[0], y - to[1]);
    if (away(from) < 5) {
      const nearest = places.reduce((best, place, index) => (away(place) < away(places[best]) ? index : best), 0);
      if (away(places[nearest]) < 14) goTo(points[nearest]);
    } else {
      const [left, right] = [from[0], to[0]].sort((a, b) => a - b), [top, low] = [from[1], to[1]].sort((a, b) => a - b);
      const inside = points.filter((_, place) => {
        const [x, y] = places[place];
        return x >= left && x <= right && y >= top && y <= low;
      });
      cloud.chosen = new Set(inside.map((point) => point.key));
      paint();
    }
    from = null;
  });
}

function goTo({ image, row, column, rows, columns }) {
  choose("image", image);
  set({ image, patch: head.sources ? nearestSource((row + 0.5) / rows, (column + 0.5) / columns) : null });
}

// The images with the most chosen patches: these are as they were, the rest is dimmed.
function litImages(chosen) {
  const byImage = Map.groupBy ? Map.groupBy(chosen, (point) => point.image) : grouped(chosen);
  const order = [...byImage].sort((a, b) => b[1].length - a[1].length).slice(0, 12);
  return make("div", { class: "tiles" }, ...order.map(([image, points]) => {
    const { rows, columns } = points[0];
    const pixels = new Uint8ClampedArray(4 * rows * columns);
    for (let place = 0; place < rows * columns; place++) pixels[4 * place + 3] = 190;
    for (const point of points) pixels[4 * (point.row * columns + point.column) + 3] = 0;
    const node = stage();
    show(node, [rows, columns], pixels, `${points.length} chosen patches of ${head.images[image].name}`, image);
    node.classList.add("is-lit");
    return make("figure", {}, node, make("figcaption", { class: "name" }, `${head.images[image].name}  ${points.length}`));
  }));
}

function grouped(points) {
  const found = new Map();
  for (const point of points) found.set(point.image, [...(found.get(point.image) ?? []), point]);
  return found;
}

// Of images that were solved as one: the images to which a patch is most connected, the strongest first.
function connectedImages(values, [rows, columns]) {
  const n = rows * columns, own = state.image * n + patchOn([rows, columns])[0] * columns + patchOn([rows, columns])[1];
  const found = [...head.images.keys()].map((image) => {
    const row = values.subarray(image * n, (image + 1) * n);
    let best = -1;
    row.forEach((value, place) => {
      if (image * n + place !== own && (best < 0 || value > row[best])) best = place;
    });
    return { image, row, best, value: row[best] };
  });
  found.sort((a, b) => b.value - a.value);
  const tiles = found.slice(0, 12).map(({ image, row, best, value }) => {
    const node = stage();
    show(node, [rows, columns], mapped(row, head.maps.amounts), `Affinities to ${head.images[image].name}`, image);
    outline(node, [Math.floor(best / columns), best % columns], ["under", "mark"]);
    // Brightness is the square root of the affinity.
    const strength = ((value / 255) ** 2).toFixed(2);
    const button = make("button", { type: "button" }, node, make("span", { class: "name" }, `${head.images[image].name}  ${strength}`));
    button.addEventListener("click", () => goTo({ image, row: Math.floor(best / columns), column: best % columns, rows, columns }));
    return button;
  });
  return make("section", { class: "connected" }, make("h3", {}, "What it is connected to in every image, the strongest first"),
    make("div", { class: "tiles" }, ...tiles));
}

drawings.cloud = { small: showCloud, title: () => "cloud of patches" };
