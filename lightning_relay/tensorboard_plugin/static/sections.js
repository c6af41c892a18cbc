/** A section for each figure, with a place for each run; drawn when the reader comes to it. */

import { draw, onOneRange, onOneScale } from "./drawing.js";
import { element } from "./element.js";
import { about, inOrder } from "./questions.js";
import { asking, chosen, KINDS } from "./selection.js";
import { addressOf, ask } from "./server.js";

const AHEAD = 100; // pixels outside the window in which figures are drawn
const READING = 50; // ms between the parts of a history that is being read

let shown = [];
let choose = () => {};
let figures;

/** Makes a section for each figure of what was read of each run; those that are there stay. */
export function showSections(main, questions, read, chooses) {
  [figures, shown, choose] = [main, read, chooses];
  const kinds = kindsOf(read);
  const names = inOrder(kinds.keys());
  for (const old of [...main.children]) {
    if (!names.includes(old.dataset.figure) || Number(old.dataset.runs) !== read.length) old.remove();
  }
  const there = new Map([...main.children].map((own) => [own.dataset.figure, own]));
  const own = names.map((name) => there.get(name) ?? section(name, kinds.get(name), read.length));
  own.forEach((one, at) => main.children[at] === one || main.insertBefore(one, main.children[at]));
  questions.replaceChildren(...own.map(questionOf));
}

/** Kinds of reports by the names of the figures that they have. */
function kindsOf(read) {
  const kinds = new Map();
  for (const one of read) {
    for (const kind of Object.keys(KINDS)) {
      for (const name of one[kind]?.holds?.figures ?? []) kinds.set(name, kind);
    }
    if (one.relays?.holds && one.relays.series.reports.length > 1) kinds.set("history", "relays");
  }
  return kinds;
}

function questionOf(own) {
  const { title } = about(own.dataset.figure);
  const button = element("button", { type: "button", textContent: title });
  button.addEventListener("click", () => {
    own.style.scrollMarginTop = `${document.querySelector("header").offsetHeight}px`;
    own.scrollIntoView();
  });
  return button;
}

function section(name, kind, several) {
  const { title, words, height } = about(name);
  const id = `title-${name}`;
  const places = Array.from({ length: several }, () =>
    element("div", { className: "place" }, [
      element("p", { className: "note", hidden: true }),
      element("div", { className: "figure", role: "figure", ariaLabel: title }),
      element("a", { className: "csv", textContent: "Save the numbers (CSV)", hidden: true }),
    ]),
  );
  for (const place of places) place.querySelector(".figure").style.minHeight = `${height}px`;
  const made = element("section", {}, [
    element("h2", { id, textContent: title }),
    element("p", { textContent: words }),
    element("div", { className: "side" }, places),
  ]);
  made.setAttribute("aria-labelledby", id);
  Object.assign(made.dataset, { figure: name, kind, runs: several });
  return made;
}

/** Draws the figures that are in the window; the others when the reader comes to them. */
export async function paintInView() {
  const old = [...(figures?.children ?? [])].filter((own) => own.drawnFrom !== shown);
  await Promise.all(
    old.map((own) => {
      const { top, bottom } = own.getBoundingClientRect();
      const inView = bottom > -AHEAD && top < window.innerHeight + AHEAD;
      own.classList.toggle("old", !inView);
      return inView ? paintFigure(own) : undefined;
    }),
  );
}

/** Draws a figure for each run, or says why there is none: it was not measured, for example. */
async function paintFigure(own) {
  const from = shown;
  const { figure: name, kind } = own.dataset;
  own.drawnFrom = from;
  const asked = from.map((read) => questionAbout(read, name, kind));
  const answers = await Promise.allSettled(asked.map((one) => one && ask("figure", one)));
  if (from !== shown) return;
  const found = answers.map(({ value }) => value);
  const there = found.filter((one) => one?.data);
  onOneScale(there);
  const drawn = [...own.querySelectorAll(".place")].map((place, at) => {
    const figure = found[at];
    const note = figure ? noteOf(figure, from[at]) : whyNot(answers[at], from[at]);
    const [words, drawing, csv] = place.children;
    Object.assign(words, { textContent: note, hidden: !note });
    drawing.hidden = csv.hidden = !figure?.data;
    if (!figure?.data) return undefined;
    csv.href = addressOf("csv", asked[at]);
    if (from.length > 1) nameRun(figure, from[at], kind);
    return draw(drawing, figure, { height: about(name).height, name, picked: pick });
  });
  await Promise.all(drawn);
  if (from !== shown) return;
  await onOneRange([...own.querySelectorAll(".figure:not([hidden])")]);
  if (found.some((one) => one?.read < one?.of)) {
    await new Promise((done) => setTimeout(done, READING));
    if (from === shown) await paintFigure(own);
  }
}

function questionAbout(read, name, kind) {
  if (!read[kind]?.holds) return undefined;
  const { prefix, stage } = read[kind].series;
  return { ...asking(read, kind), figure: name, prefix, stage };
}

function noteOf({ note, read, of }, { lacking }) {
  return [lacking, note, read < of ? `${read} of ${of} reports are read.` : ""].filter(Boolean).join(" ");
}

function whyNot({ reason }, { failed }) {
  return reason?.message ?? (failed.join(" ") || "This run has no such report at this stage.");
}

/** Names the run in a title, and its callback if that is not the chosen one. */
function nameRun({ layout }, read, kind) {
  const { run } = read.run;
  const { prefix } = read[kind].series;
  const other = ["", prefix].includes(chosen[kind]) ? "" : ` (${prefix})`;
  const name = `${run === "." ? "the log directory itself" : run}${other}`;
  layout.title.text = `${name.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}, ${layout.title.text}`;
}

/** Chooses what a point stands for: its trace says where the point has which choice. */
function pick({ data, ...point }) {
  const meanings = Object.entries(data.meta ?? {}).filter(([, field]) => point[field] !== undefined);
  if (meanings.length) choose(Object.fromEntries(meanings.map(([name, field]) => [name, String(point[field])])));
}
