"use strict";
// Code that can be copied: without this file the pages are complete.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll("div.highlight")) {
    const code = box.querySelector("pre");
    if (!code || box.closest(".cell_output")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      // Prompts and what was printed after them are not copied.
      const lines = code.textContent.replace(/\n$/, "").split("\n");
      const typed = lines.filter((line) => /^(>>>|\.\.\.)( |$)/.test(line)).map((line) => line.slice(4));
      try {
        await navigator.clipboard.writeText((typed.length ? typed : lines).join("\n"));
        button.textContent = "Copied";
      } catch {
        // Not every browser lets a local file write to the clipboard: the code is selected, so that Ctrl+C does it.
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(button);
  }
});
