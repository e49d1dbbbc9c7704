"use strict";
// One pair at a time; a choice is possible when both clips have been played. Votes are kept in this browser.
const { study, trials } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const key = `titan_speech listening ${study}`;
const read = () => {
  try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; }
};
const state = Object.assign({ listener: "", votes: {} }, read());
if (!state.listener) state.listener = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
const store = () => { try { localStorage.setItem(key, JSON.stringify(state)); } catch { /* kept until the page is closed */ } };
const firstOpen = () => { const found = trials.findIndex((trial) => !(trial.id in state.votes)); return found < 0 ? trials.length : found; };
let place = firstOpen();
let heard = new Set();

function show() {
  const trial = trials[place];
  const done = Object.keys(state.votes).length;
  byId("progress").textContent = trial ? `Pair ${place + 1} of ${trials.length}` : `All ${trials.length} pairs are done. Save your votes, and send the file.`;
  byId("trial").hidden = byId("tie").hidden = byId("hint").hidden = !trial;
  byId("back").disabled = place === 0;
  byId("save").disabled = done === 0;
  byId("text").hidden = !trial || !trial.text;
  if (!trial) return;
  byId("text").firstElementChild.textContent = trial.text;
  heard = new Set();
  for (const side of ["left", "right"]) byId(side).src = trial[side];
  allow();
}

function allow() {
  const both = heard.size === 2 || (trials[place] && trials[place].id in state.votes);
  for (const id of ["prefer-left", "prefer-right", "tie"]) byId(id).disabled = !both;
}

function vote(choice) {
  if (!trials[place] || byId("tie").disabled) return;
  state.votes[trials[place].id] = choice;
  store();
  place += 1;
  show();
}

for (const side of ["left", "right"]) {
  byId(side).addEventListener("play", () => byId(side === "left" ? "right" : "left").pause());
  byId(side).addEventListener("ended", () => { heard.add(side); allow(); });
  byId(`prefer-${side}`).addEventListener("click", () => vote(side));
}
byId("tie").addEventListener("click", () => vote("tie"));
byId("back").addEventListener("click", () => { place -= 1; show(); });
byId("save").addEventListener("click", () => {
  const link = document.createElement("a");
  const content = JSON.stringify({ study, listener: state.listener, votes: state.votes }, null, 1);
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = `votes-${study}-${state.listener}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});
document.addEventListener("keydown", (event) => {
  const choice = { 1: "left", 2: "right", 0: "tie" }[event.key];
  if (choice) vote(choice);
});
show();
