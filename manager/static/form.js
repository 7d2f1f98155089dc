// The form of the forwards: what it will do and cost, and what is wrong with it, while it is
// filled in.
"use strict";

const form = document.querySelector("form[data-preview]");
if (form) {
  const LONGEST_MS = 8000;
  const place = document.getElementById("preview");
  let asked = null; // the newest question
  let typing = null; // the text field that is being typed in: no complaint about it yet

  let known = null; // the form whose cost is shown

  const filled = () => {
    const body = new URLSearchParams(new FormData(form));
    body.delete("seen");
    return body.toString();
  };
  const show = (id) => place.replaceChildren(document.getElementById(id).content.cloneNode(true));

  // Only a fresh answer is shown. Whatever else comes takes the old cost away.
  const look = async () => {
    asked?.abort();
    const mine = (asked = new AbortController());
    const late = setTimeout(() => mine.abort(), LONGEST_MS);
    const part = document.createElement("template");
    const asking = filled();
    let otherwise = "preview-away";
    try {
      const body = new URLSearchParams(asking);
      const answer = await fetch(form.dataset.preview, { method: "POST", body, signal: mine.signal });
      if (answer.status === 401 || answer.redirected) otherwise = "preview-ended";
      else if (answer.ok) part.innerHTML = await answer.text();
    } catch {
      // away, or too late
    }
    clearTimeout(late);
    if (mine !== asked) return;
    place.classList.remove("waiting");
    if (part.content.querySelector("[name=seen]")) known = asking;
    if (part.content.querySelector("[data-fresh]")) judge(part.content);
    else show(otherwise);
  };

  // What is wrong is told when a field is left, and taken away as soon as it is right.
  const judge = (part) => {
    const wrong = new Map();
    for (const item of part.querySelectorAll("[data-field]")) {
      if (item.dataset.field === typing) item.remove();
      else wrong.set(item.dataset.field, item.dataset.text);
    }
    const still = part.querySelector("[data-wrong]") && typing;
    correct(wrong, still);
    for (const [name, text] of wrong) complain(name, text);
    if (still && !wrong.size) show("preview-typing");
    else place.replaceChildren(part);
  };

  const correct = (wrong, still) => {
    const summary = document.getElementById("errors");
    for (const told of form.querySelectorAll(".problem")) {
      const name = told.id.replace(/-error$/, "");
      if (wrong.has(name) || (still && name === typing)) continue;
      told.remove();
      document.getElementById(name)?.removeAttribute("aria-invalid");
      summary?.querySelector(`a[href="#${CSS.escape(name)}"]`)?.closest("li").remove();
    }
    if (!summary) return;
    const left = summary.querySelectorAll("li").length;
    if (!left) summary.remove();
    else summary.querySelector("h2").textContent = left === 1 ? summary.dataset.one : summary.dataset.many.replace("#", left);
  };

  const complain = (name, text) => {
    const field = document.getElementById(name);
    let told = document.getElementById(name + "-error");
    if (!field || !text) return;
    if (!told) {
      told = document.createElement("p");
      told.className = "problem";
      told.id = name + "-error";
      (field.closest(".field") ?? field.closest(".choice").querySelector(".choice-body")).append(told);
    }
    told.textContent = text;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-errormessage", told.id);
  };

  const ask = (wait) => {
    const soon = later(wait, look);
    return () => {
      asked?.abort();
      asked = known = null;
      place.classList.add("waiting");
      place.querySelector("[name=seen]")?.remove();
      soon();
    };
  };
  const afterKeys = ask(250);
  const atOnce = ask(20);
  form.addEventListener("input", ({ target }) => {
    typing = target.type === "text" ? target.name : null;
    afterKeys();
  });
  form.addEventListener("change", () => {
    typing = null;
    if (filled() !== known) atOnce(); // leaving a field changes nothing
  });
  known = place.querySelector("[name=seen]") ? filled() : null;
  place.addEventListener("click", ({ target }) => {
    if (target.closest("[data-retry]")) atOnce();
  });
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
