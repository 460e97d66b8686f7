// What the explorer does in the page itself: the matrix of layers, full screen, and the colours of what Bokeh writes.
// NAME is the class of one explorer. Everything said goes through one list, in order; see channel.py.
const page = Math.random().toString(36).slice(2);

const attach = (root) => {
  // The explorer was filled anew, by a bundle or with more images: what listens goes on, on its new parts.
  if (root.spectralToolkitListen) return root.spectralToolkitListen();
  // Otherwise keys that are meant for the explorer are shortcuts of JupyterLab, too.
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  root.tabIndex = -1;
  const $ = (selector) => root.querySelector(selector);
  const $$ = (selector) => [...root.querySelectorAll(selector)];
  let waiting = [], number = 0;
  // A page of Voila shows one notebook: its address follows what its first explorer shows, and brings that back.
  const config = document.getElementById("jupyter-config-data");
  const linked = document.querySelector(".st-explorer") === root && "kernelId" in JSON.parse(config?.textContent || "{}");

  const send = () => {
    const input = $(".st-said input");
    input.value = JSON.stringify({page, said: waiting.map(({number, what}) => [number, what])});
    input.dispatchEvent(new Event("input", {bubbles: true}));
  };
  const say = (what, then) => {
    // A weight that was not sent yet is replaced by the next one.
    const last = waiting.at(-1);
    if (what.weights && last?.what.weights) what = {weights: {...last.what.weights, ...what.weights}};
    waiting.push({number: ++number, what, then});
    send();
  };
  const hear = () => {
    const board = $(".st-told [data-told]");
    if (!board) return;
    const told = JSON.parse(board.dataset.told), heard = told.heard[page] ?? 0;
    const done = waiting.filter((one) => one.number <= heard);
    waiting = waiting.filter((one) => one.number > heard);
    for (const {then} of done) then?.();
    if (linked && told.link && !waiting.some(({what}) => what.link)) {
      history.replaceState(null, "", `#state=${encodeURIComponent(told.link)}`);
    }
    if (told.weights && !waiting.some(({what}) => what.weights)) Object.entries(told.weights).forEach(show);
  };

  // --- the matrix of layers
  const most = 2, coarse = 0.25, fine = 0.05;
  const rows = () => $$(".st-layer");
  const weightOf = (row) => Number(row.getAttribute("aria-valuenow"));
  const show = ([layer, weight]) => {
    const row = rows().find((one) => one.dataset.layer === layer);
    if (!row) return;
    row.style.setProperty("--weight", weight);
    row.setAttribute("aria-valuenow", weight);
    row.setAttribute("aria-valuetext", weight ? `weight ${weight.toFixed(2)}` : "off");
    row.classList.toggle("is-off", !weight);
    row.querySelector(".st-weight").textContent = weight ? weight.toFixed(2) : "off";
    if (weight) row.dataset.last = weight;
  };
  const set = (weights) => {
    Object.entries(weights).forEach(show);
    say({weights});
  };
  const stepped = (weight, step) => Math.round(Math.max(0, Math.min(most, Math.round(weight / step) * step)) * 100) / 100;
  const toggled = (row) => (weightOf(row) ? 0 : Number(row.dataset.last ?? 1));
  let drag = null;
  const across = (event) => {
    const all = rows(), box = all[0].querySelector(".st-track").getBoundingClientRect();
    const weight = drag.toggle ?? stepped(((event.clientX - box.left) / box.width) * most, coarse);
    const [low, high] = [Math.min(drag.y, event.clientY), Math.max(drag.y, event.clientY)];
    const changed = all.filter((row) => {
      const {top, bottom} = row.getBoundingClientRect();
      return bottom > low && top <= high && weightOf(row) !== weight;
    });
    drag.y = event.clientY;
    if (changed.length) set(Object.fromEntries(changed.map((row) => [row.dataset.layer, weight])));
  };
  root.addEventListener("pointerdown", (event) => {
    const row = event.target.closest?.(".st-layer");
    if (!row || event.button) return;
    event.preventDefault();
    focusOn(row);
    // From its name, a layer is switched on or off, and those that the drag crosses with it.
    drag = {y: event.clientY, toggle: event.target.closest(".st-name") ? toggled(row) : undefined};
    row.parentElement.setPointerCapture(event.pointerId);
    across(event);
  });
  root.addEventListener("pointermove", (event) => drag && across(event));
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) root.addEventListener(end, () => (drag = null));
  const focusOn = (row) => {
    for (const one of rows()) one.tabIndex = one === row ? 0 : -1;
    row.focus({preventScroll: false});
  };
  root.addEventListener("keydown", (event) => {
    const row = event.target.closest?.(".st-layer");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = rows(), place = all.indexOf(row), step = event.shiftKey ? coarse : fine;
    const weight = {
      ArrowRight: () => weightOf(row) + step, ArrowLeft: () => weightOf(row) - step, Home: () => 0, End: () => most,
      " ": () => toggled(row), Enter: () => toggled(row), Delete: () => 0,
    }[event.key];
    const other = {ArrowDown: all[place + 1], ArrowUp: all[place - 1]}[event.key];
    if (weight) set({[row.dataset.layer]: stepped(weight(), fine)});
    else if (other) focusOn(other);
    else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
  });

  // --- the keyboard
  root.addEventListener("pointerdown", (event) => {
    if (event.target.closest?.(".st-stage")) root.focus({preventScroll: true});
  });
  root.addEventListener("keydown", (event) => {
    const taken = event.target.closest?.("input, select, textarea, [role=slider]");
    const {key, shiftKey} = event, control = event.ctrlKey || event.metaKey;
    if (taken && !(control && event.target.type !== "text" && event.target.tagName !== "TEXTAREA")) return;
    const moves = {ArrowLeft: ["component", -1], ArrowRight: ["component", 1], ArrowUp: ["image", -1], ArrowDown: ["image", 1]};
    if (control && !event.altKey && "zy".includes(key.toLowerCase())) {
      say({go: key.toLowerCase() === "y" || shiftKey ? "forth" : "back"});
    } else if (control || event.altKey) return;
    else if (moves[key]) say({step: moves[key]});
    else if (/^[1-9]$/.test(key)) say({view_number: Number(key)});
    else if (key === "Escape" && !document.fullscreenElement) say({patch: null});
    else if (key === "?") root.classList.toggle("is-helped");
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  // --- buttons whose place among other changes matters, and full screen
  root.addEventListener("click", (event) => {
    const pressed = (selector) => event.target.closest?.(selector);
    const preset = pressed(".st-presets button");
    if (preset) say({preset: preset.textContent.trim()});
    // A slider's last value is on its way: what is said after the kernel has answered comes after it.
    else if (pressed(".st-lowest:enabled")) say({}, () => say({lowest_cut: true}));
    else if (pressed(".st-add")) choose();
    else if (pressed(".st-keys")) root.classList.toggle("is-helped");
    else if (pressed(".st-full")) document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen();
    else return;
    event.stopPropagation();
  }, true);

  // --- image files that are dropped or chosen
  const mostBytes = 6 * 2 ** 20;  // in all: what a notebook's connection carries at once
  const read = (file) => new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done({name: file.name, content: reader.result});
    reader.readAsDataURL(file);
  });
  const add = async (files) => {
    const bytes = files.reduce((sum, file) => sum + file.size, 0);
    if (bytes > mostBytes) say({too_large: bytes});
    // What was sent stays in the page until something else is said.
    else if (files.length) say({images: await Promise.all(files.map(read))}, () => say({}));
  };
  const choose = () => {
    const input = Object.assign(document.createElement("input"), {type: "file", accept: "image/*", multiple: true});
    input.addEventListener("change", () => add([...input.files]));
    input.click();
  };
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) root.addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    root.classList.toggle("is-dropping", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") add([...event.dataTransfer.files]);
  }, true);

  const link = linked && new URLSearchParams(location.hash.slice(1)).get("state");
  if (link) say({link});
  const observer = new MutationObserver(hear);
  root.spectralToolkitListen = () => {
    observer.disconnect();
    observer.observe($(".st-told"), {childList: true, subtree: true});
    hear();
  };
  root.spectralToolkitListen();
};

// --- Bokeh draws words into images of its own, which know nothing of the page's theme
window.spectralToolkitInk = (figure) => {
  const root = document.querySelector(".st-explorer");
  if (!root) return;
  const ink = getComputedStyle(root).color;
  for (const {glyph} of figure.renderers) {
    // Words that have a column of colours keep them.
    if (glyph?.type === "Text" && !glyph.text_color?.field && glyph.text_color?.value !== ink) glyph.text_color = {value: ink};
  }
  for (const title of figure.above) if (title.type === "Title" && title.text_color !== ink) title.text_color = ink;
  for (const axis of [...figure.below, ...figure.left]) {
    if (axis.axis_label_text_color !== ink) axis.setv({
      axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: ink, major_tick_line_color: ink,
      minor_tick_line_color: null,
    });
  }
};
const inkAll = () => {
  for (const document of window.Bokeh?.documents ?? []) for (const root of document.roots())
    for (const model of root.references()) if (model.tags?.includes("st-ink")) {
      try {
        window.spectralToolkitInk(model);
      } catch {
        // A figure of a kernel that has ended cannot tell it of the change; those of others are still to come.
      }
    }
};
window.spectralToolkitTheme?.disconnect();
window.spectralToolkitTheme = new MutationObserver(() => setTimeout(inkAll, 300));
for (const one of [document.documentElement, document.body])
  window.spectralToolkitTheme.observe(one, {attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class", "theme"]});

let tries = 0;
const find = () => {
  const roots = document.querySelectorAll(".NAME");
  const whole = [...roots].filter((root) => root.querySelector(".st-told") && root.querySelector(".st-said input"));
  whole.forEach(attach);
  if (!whole.length && tries++ < 600) setTimeout(find, 50);
};
find();
