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
  let held = null; // a button that is pressed must not move away before it is let go
  const left = new Set([...form.querySelectorAll("[aria-invalid]")].map((field) => field.id));

  const isTyped = (name) => document.getElementById(name)?.matches("input[type=text], select");

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
    await held;
    if (mine !== asked) return;
    place.classList.remove("waiting");
    if (part.content.querySelector("[name=seen]")) known = asking;
    if (part.content.querySelector("[data-fresh]")) judge(part.content);
    else show(otherwise);
  };

  // What is wrong is shown when a field has been left, and taken away as soon as it is right.
  const judge = (part) => {
    const wrong = new Map();
    const quiet = new Set();
    for (const item of part.querySelectorAll("[data-field]")) {
      const { field, text } = item.dataset;
      if (field === typing || (isTyped(field) && !left.has(field))) {
        quiet.add(field);
        item.remove();
      } else wrong.set(field, text);
    }
    correct((name) => wrong.has(name) || quiet.has(name));
    for (const [name, text] of wrong) complain(name, text);
    if (quiet.size && !wrong.size) show("preview-typing");
    else place.replaceChildren(part);
  };

  // The bar that stays on a phone shows the badges of what is in the panel.
  const bar = document.querySelector(".cost-now");
  const inBar = () => {
    const badges = [...place.querySelectorAll(".badge")].map((badge) => badge.cloneNode(true));
    bar?.replaceChildren(...badges.flatMap((badge) => [badge, " "]));
  };
  new MutationObserver(inBar).observe(place, { childList: true });

  const correct = (isWrong) => {
    const summary = document.getElementById("errors");
    for (const problem of form.querySelectorAll(".problem")) {
      const name = problem.id.replace(/-error$/, "");
      if (isWrong(name)) continue;
      problem.remove();
      document.getElementById(name)?.removeAttribute("aria-invalid");
      summary?.querySelector(`a[href="#${CSS.escape(name)}"]`)?.closest("li").remove();
    }
    if (!summary) return;
    const count = summary.querySelectorAll("li").length;
    const heading = summary.querySelector("h2");
    if (!count) summary.remove();
    else heading.textContent = count === 1 ? summary.dataset.one : summary.dataset.many.replace("#", count);
  };

  const complain = (name, text) => {
    const field = document.getElementById(name);
    let problem = document.getElementById(name + "-error");
    if (!field || !text) return;
    if (!problem) {
      problem = document.createElement("p");
      problem.className = "problem";
      problem.id = name + "-error";
      (field.closest(".field") ?? field.closest(".choice").querySelector(".choice-body")).append(problem);
    }
    problem.textContent = text;
    field.setAttribute("aria-invalid", "true");
    const described = new Set((field.getAttribute("aria-describedby") ?? "").split(" "));
    field.setAttribute("aria-describedby", [...described.add(problem.id)].join(" ").trim());
  };

  const ask = (wait) => {
    const soon = later(wait, look);
    return async () => {
      await held; // what is pressed may be in the panel
      asked?.abort();
      asked = known = null;
      place.classList.add("waiting");
      bar?.replaceChildren();
      place.querySelector("[name=seen]")?.remove();
      soon();
    };
  };
  const afterKeys = ask(250);
  const atOnce = ask(20);
  form.addEventListener("input", ({ target }) => {
    typing = target.type === "text" ? target.name : null;
    target.closest(".field")?.querySelector(".named")?.remove(); // it named what was there
    afterKeys();
  });
  form.addEventListener("change", () => {
    typing = null;
    if (filled() !== known) atOnce(); // leaving a field changes nothing
  });
  form.addEventListener("focusout", ({ target }) => {
    if (!isTyped(target.id) || left.has(target.id)) return;
    left.add(target.id);
    if (!place.querySelector("[name=seen]")) atOnce();
  });
  document.addEventListener("pointerdown", () => {
    held = new Promise((free) => {
      for (const end of ["pointerup", "pointercancel"]) {
        document.addEventListener(end, () => setTimeout(free, 50), { once: true });
      }
    });
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
