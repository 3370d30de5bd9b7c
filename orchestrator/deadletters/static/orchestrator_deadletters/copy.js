// Buttons with data-copy="#selector" put that element's text on the clipboard.
"use strict";
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.querySelector(button.dataset.copy);
  const label = button.textContent;
  let copied = false;
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied = true;
    } catch {
      copied = false;
    }
  }
  if (!copied) {
    // Browsers offer the clipboard only over HTTPS and on localhost; elsewhere select the text and try the old way.
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Selected: press Ctrl-C";
  setTimeout(() => { button.textContent = label; }, 2000);
});
