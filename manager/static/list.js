// The list of lines: search while typing, "/" to search, arrows to walk, ticks that are kept.
"use strict";

const list = document.getElementById("list");

// What is ticked is kept over searches and pages, until it is used or somebody logs in.
const KEPT = "ticked";
const ticked = new Set(JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"));
const boxes = () => [...list.querySelectorAll("input[name=line]")];

const tell = () => {
  sessionStorage.setItem(KEPT, JSON.stringify([...ticked]));
  const counter = list.querySelector(".ticked");
  if (!counter) return;
  const { none, one, many } = counter.dataset;
  counter.textContent = !ticked.size ? none : ticked.size === 1 ? one : many.replace("#", ticked.size);
  list.querySelector(".untick").hidden = !ticked.size;
  const all = list.querySelector(".tick-all");
  const here = boxes().filter((box) => box.checked).length;
  all.checked = here > 0 && here === boxes().length;
  all.indeterminate = here > 0 && !all.checked;
};
const tick = () => {
  for (const box of boxes()) box.checked = ticked.has(box.value);
  tell();
};
const note = (box) => (box.checked ? ticked.add(box.value) : ticked.delete(box.value));

list.addEventListener("change", ({ target }) => {
  if (target.matches(".tick-all")) {
    for (const box of boxes()) {
      box.checked = target.checked;
      note(box);
    }
  } else if (target.name === "line") note(target);
  tell();
});
list.addEventListener("click", ({ target }) => {
  if (!target.matches(".untick")) return;
  ticked.clear();
  tick();
});
list.addEventListener("submit", ({ target }) => {
  for (const old of target.querySelectorAll("[data-elsewhere]")) old.remove();
  const here = new Set(boxes().map((box) => box.value));
  for (const number of ticked) {
    if (here.has(number)) continue;
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: "line", value: number });
    field.dataset.elsewhere = "";
    target.append(field);
  }
});
window.addEventListener("pageshow", tick);

const search = document.querySelector("input[data-live]");
let newest = 0;
const find = later(150, async () => {
  const mine = ++newest;
  const query = new URLSearchParams(new FormData(search.form));
  history.replaceState(null, "", "?" + query);
  const answer = await fetch("/lines?part=list&" + query).catch(() => null);
  if (mine !== newest) return;
  // The session ended, or nothing answers: the page itself says so.
  if (!answer?.ok || answer.redirected) location.reload();
  else {
    list.innerHTML = await answer.text();
    tick();
  }
});
search.addEventListener("input", find);
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    search.focus();
    search.select();
    return;
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [...list.querySelectorAll("a.pick")];
  const at = links.indexOf(document.activeElement);
  if (!step || !links.length || (typing && document.activeElement !== search)) return;
  event.preventDefault();
  if (at + step < 0) search.focus();
  else links[Math.min(at + step, links.length - 1)].focus();
});
