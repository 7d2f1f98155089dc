// The list of lines: search while typing, "/" to search, arrows to walk.
"use strict";

const search = document.querySelector("input[data-live]");
if (search) {
  const list = document.getElementById("list");
  let newest = 0;
  const find = later(150, async () => {
    const mine = ++newest;
    const query = new URLSearchParams(new FormData(search.form));
    history.replaceState(null, "", "?" + query);
    const answer = await fetch("/lines?part=list&" + query).catch(() => null);
    if (mine !== newest) return;
    // The session ended, or nothing answers: the page itself says so.
    if (!answer?.ok || answer.redirected) location.reload();
    else list.innerHTML = await answer.text();
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
