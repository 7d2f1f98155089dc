// Everything works without scripts; with them, costs and lists follow what is typed.
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

// Ticked lines are kept for who ticked them, until something was done with them.
if (document.querySelector("[data-untick]")) sessionStorage.removeItem("ticked");
