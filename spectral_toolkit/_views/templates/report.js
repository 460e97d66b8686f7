"use strict";
// The page is complete without this file; it only changes which of the parts that are already there are seen.
const controls = document.getElementById("controls");
const radios = [...controls.querySelectorAll("input[name=component]")];
const parts = [...document.querySelectorAll("[data-component]")];
const marks = [...document.querySelectorAll("[data-mark]")];

function showComponent(component) {
  for (const part of parts) part.hidden = part.dataset.component !== component;
  for (const mark of marks) mark.classList.toggle("is-current", mark.dataset.mark === component);
  document.getElementById("status").textContent = `Component ${component} of ${radios.length}`;
}

function showOpacity(percent) {
  document.documentElement.style.setProperty("--opacity", percent / 100);
  document.getElementById("opacity-value").textContent = `${percent} %`;
}

function step(by) {
  const radio = radios[radios.findIndex((one) => one.checked) + by];
  if (!radio) return;
  radio.checked = true;
  showComponent(radio.value);
}

controls.hidden = false;
document.getElementById("without-script").hidden = true;
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("change", (event) => {
  if (event.target.name === "component") showComponent(event.target.value);
  if (event.target.id === "smooth") document.body.classList.toggle("is-smooth", event.target.checked);
});
document.getElementById("opacity").addEventListener("input", (event) => showOpacity(event.target.value));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, pre, button")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

// A browser that went back to this page may have kept the controls as they were left.
showComponent((radios.find((one) => one.checked) || radios[0]).value);
showOpacity(document.getElementById("opacity").value);
document.body.classList.toggle("is-smooth", document.getElementById("smooth").checked);

for (const box of document.querySelectorAll(".recipe")) {
  const copy = box.querySelector("button");
  const recipe = box.querySelector("code");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(recipe.textContent);
      copy.textContent = "Copied";
    } catch {
      // Not every browser lets a local file write to the clipboard: select the text, so that Ctrl+C does it.
      getSelection().selectAllChildren(recipe);
      copy.textContent = "Selected";
    }
  });
}

// A link to something folded away unfolds it.
function unfold() {
  const aim = document.getElementById(location.hash.slice(1));
  if (aim && aim.tagName === "DETAILS") aim.open = true;
}
addEventListener("hashchange", unfold);
unfold();

// What is folded away on screen belongs on paper.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not(.how)")) folded.open = true;
});
