// Everything works without this file; with it, costs and lists follow what is typed.
"use strict";
document.documentElement.classList.add("js");

const later = (wait, act) => {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
};

// What went wrong, or what was done, is where reading begins.
const first = document.querySelector("[data-focus]");
if (first) first.focus();

// The form of the forwards: say at once what it will do. Only the newest answer counts.
const form = document.querySelector("form[data-preview]");
if (form) {
  const place = document.getElementById("preview");
  let asked;
  const look = async () => {
    if (asked) asked.abort();
    asked = new AbortController();
    const body = new URLSearchParams(new FormData(form));
    try {
      const answer = await fetch(form.dataset.preview, { method: "POST", body, signal: asked.signal });
      if (answer.ok && !answer.redirected) place.innerHTML = await answer.text();
    } catch (error) {
      if (error.name !== "AbortError") place.querySelector("[name=seen]")?.remove();
    }
  };
  const soon = later(250, look);
  form.addEventListener("input", soon);
  form.addEventListener("change", later(50, look));
}

// Fields that take a line of the fleet: suggest while typing.
for (const field of document.querySelectorAll("input[data-suggest]")) {
  const list = document.createElement("datalist");
  list.id = field.id + "-list";
  field.after(list);
  field.setAttribute("list", list.id);
  const line = field.form.dataset.line;
  const suggest = later(120, async () => {
    const query = new URLSearchParams({ line, kind: field.dataset.suggest, q: field.value });
    const answer = await fetch("/suggest?" + query);
    if (!answer.ok || answer.redirected) return;
    list.replaceChildren(
      ...(await answer.json()).map(({ number, label }) => new Option(label ? number + " – " + label : number, number)),
    );
  });
  field.addEventListener("focus", suggest, { once: true });
  field.addEventListener("input", suggest);
}

// The list of lines: search while typing, "/" to search, arrows to walk.
const search = document.querySelector("input[data-live]");
if (search) {
  const list = document.getElementById("list");
  let newest = 0;
  const find = later(150, async () => {
    const mine = ++newest;
    const query = new URLSearchParams(new FormData(search.form));
    history.replaceState(null, "", "?" + query);
    const answer = await fetch("/lines?part=list&" + query);
    if (answer.ok && !answer.redirected && mine === newest) list.innerHTML = await answer.text();
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
}
