/** The Relays tab: choices at the top, and below them a figure for each question. */

import { readAddress, writeAddress } from "./address.js";
import { draw, isDark, loadPlotly, onOneScale, onTheme } from "./drawing.js";

/** Figures in the order of the page; others of a report come after them under their own names. */
const QUESTIONS = {
  relay_share: {
    title: "Where is it?",
    words:
      "Bars: bits of the label that all units together carry into the prediction, at each step. " +
      "Grey: not all input was seen yet. Hollow: too few sequences to be sure. Below, the share of " +
      "each unit; white is nothing. Click on a step to choose it.",
    height: 520,
  },
  units_needed: {
    title: "How many units does it take?",
    words:
      "Bits that a growing set of units tells at the chosen step. A curve that rises fast and then " +
      "stays level: few units are enough. Orange: bits that only the units that leave a shrinking " +
      "set last still relay.",
    height: 400,
  },
  relay_transfer: {
    title: "Does it move?",
    words:
      "Blue: the units that tell it at one step (vertical) tell it at another (horizontal), so it " +
      "stays. Blue only on the diagonal: it moves to other units. Grey cannot be measured. At the " +
      "right, the mean over all pairs that are equally far apart.",
    height: 430,
  },
  layers: {
    title: "All layers",
    words: "Bits that all units of each layer relay, at each step.",
    height: 320,
  },
  latent: {
    title: "What does the state do?",
    words:
      "Paths of the states of each class, over the two directions in which they differ most, and " +
      "where they would settle.",
    height: 520,
  },
  damage: {
    title: "Does it matter?",
    words: "What the network loses when each set of units is held at a value, with intervals.",
    height: 430,
  },
  damage_map: {
    title: "What does each set of units matter for?",
    words: "Damage by each set to accuracy, concepts and classes, or to metrics.",
    height: 520,
  },
  prediction: {
    title: "Does what units relay predict what breaks?",
    words: "Damage by random sets of units, over what the sets relay and over their size.",
    height: 430,
  },
  damage_share: {
    title: "Which units relay, and which matter?",
    words: "Each unit's share of the damage by all units, over its relay share.",
    height: 430,
  },
  agreement: {
    title: "Do units that relay matter, each alone?",
    words: "Damage by each unit alone, over its relay share.",
    height: 430,
  },
  greedy_order: {
    title: "In which order do units matter?",
    words:
      "Place of each unit when units are taken away one after the other; dark units leave last. " +
      "Units with one shade are tied.",
    height: 430,
  },
};
const AGAIN = 15_000; // ms between looks for new reports
const PLAYED = 400; // ms for each epoch at least, while playing
const IDLE = 100; // ms without a new choice before more is read than was asked for
const AHEAD = 100; // pixels outside the window in which figures are drawn

/** What is chosen. An empty epoch is the newest, step -1 the one that a layer computes last. */
const chosen = { run: "", series: "", beside: "", layer: "", concept: "", epoch: "", step: "-1" };

const page = {};
let runs = [];
let shown = { runs: [], about: [] };
let drawing = false;
let stale = false;
let playing = false;
const described = new Map();

export async function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./style.css", import.meta.url);
  document.head.append(style);
  document.documentElement.lang = "en";
  Object.assign(chosen, readAddress());
  build();
  recolour();
  onTheme(() => {
    recolour();
    repaint();
  });
  for (const event of ["scroll", "resize"]) {
    window.addEventListener(event, () => requestAnimationFrame(paintInView), { passive: true });
  }
  window.addEventListener("unhandledrejection", ({ reason }) => tell(String(reason), "error"));
  loadPlotly().catch((error) => tell(error.message, "error"));
  await look();
  setInterval(() => document.visibilityState === "visible" && look(), AGAIN);
}

/* The page */

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function choice(name, label, words) {
  const select = element("select", { id: name, title: words });
  select.addEventListener("change", () => choose({ [name]: select.value }));
  page[name] = select;
  return element("label", {}, [label, select]);
}

function build() {
  page.slider = element("input", { type: "range", id: "epoch", min: 0, step: 1 });
  page.slider.addEventListener("input", () => choose({ epoch: epochAt(page.slider.value) }));
  page.epoch = element("output", { htmlFor: "epoch" });
  page.play = element("button", { type: "button", id: "play" });
  page.play.addEventListener("click", () => play(!playing));
  page.status = element("p", { id: "status", role: "status" });
  page.summaries = element("div", { className: "side", id: "summaries" });
  page.figures = element("main", { id: "figures" });
  document.body.append(
    element("form", { id: "choices", ariaLabel: "What is shown" }, [
      choice("run", "Run", "Directory of the run below TensorBoard's log directory"),
      choice("beside", "beside", "A second run, drawn on the same scales"),
      choice("series", "Reports", "Prefix of the callback, and the stage"),
      choice("layer", "Layer", "Recurrent layer of the model"),
      choice("concept", "Concept", "Function of the label that is followed"),
      choice("step", "Step", "Time step that a figure is about or marks"),
      element("label", { className: "epoch" }, ["Epoch", page.slider, page.epoch]),
      page.play,
    ]),
    page.status,
    page.summaries,
    page.figures,
  );
  document.getElementById("choices").addEventListener("submit", (event) => event.preventDefault());
  play(false);
}

function recolour() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
}

/** Says how things are; state is "loading", "ready", "empty" or "error". */
function tell(words, state) {
  page.status.textContent = words;
  document.body.dataset.state = state;
  page.figures.ariaBusy = String(state === "loading");
}

function fill(select, options, value) {
  const same =
    select.options.length === options.length &&
    options.every(([own], at) => select.options[at].value === own);
  if (!same) {
    select.replaceChildren(
      ...options.map(([own, text]) => element("option", { value: own, textContent: text })),
    );
  }
  select.value = value;
  select.disabled = options.length < 2;
  select.parentElement.hidden = options.length === 0;
}

/* Reports */

/** Asks the server; an Error has its words. */
async function ask(route, parameters = {}) {
  const address = new URL(`../${route}`, import.meta.url);
  address.search = new URLSearchParams(parameters);
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    throw new Error("TensorBoard does not answer; is it still running?");
  }
  let read;
  try {
    read = await answer.json();
  } catch {
    throw new Error(`TensorBoard answered with ${answer.status} ${answer.statusText}.`);
  }
  if (!answer.ok || read.error) throw new Error(read.error ?? `TensorBoard answered with ${answer.status}.`);
  return read;
}

/** Looks which reports there are, and shows them if they are new. */
async function look() {
  const before = JSON.stringify(runs);
  let found;
  try {
    found = await ask("runs");
  } catch (error) {
    tell(error.message, "error");
    return;
  }
  runs = found.runs;
  if (!found.complete) setTimeout(look, 1000);
  if (runs.length === 0) {
    const words = found.complete
      ? [
          `There are no saved reports under ${found.logdir || "the log directory"}.`,
          "RelayInformationCallback and KnockoutCallback save one at the end of every evaluation, " +
            "beside the logs of the first logger, or in their dirpath. They show up here by " +
            "themselves.",
          ...found.notes,
        ]
      : [`Looking for reports under ${found.logdir} …`];
    page.summaries.replaceChildren();
    page.figures.replaceChildren();
    tell(words.join(" "), found.complete ? "empty" : "loading");
  } else if (JSON.stringify(runs) !== before || document.body.dataset.state === "error") {
    repaint();
  }
}

function named(list, field, name) {
  return list.find((one) => one[field] === name);
}

function seriesOf(run) {
  return named(run.series, "series", chosen.series) ?? run.series[0];
}

/** The chosen report of a run: of the chosen epoch, or of the last one before it. */
function reportOf(run) {
  const { reports } = seriesOf(run);
  if (chosen.epoch === "") return reports.at(-1);
  return reports.findLast((one) => one.epoch <= Number(chosen.epoch)) ?? reports[0];
}

function epochAt(place) {
  const { reports } = seriesOf(runs.find((one) => one.run === chosen.run));
  return Number(place) === reports.length - 1 ? "" : String(reports[place].epoch);
}

function describe(run, { report, modified } = reportOf(run)) {
  const key = `${report} ${modified}`;
  if (!described.has(key)) {
    described.set(key, ask("report", { run: run.run, report, modified }));
    described.get(key).catch(() => described.delete(key));
  }
  return described.get(key);
}

/* Choosing and painting */

function choose(changes) {
  Object.assign(chosen, changes);
  repaint();
}

/** Paints what is chosen. What is chosen while it paints is painted after it. */
async function repaint() {
  stale = true;
  if (drawing) return;
  drawing = true;
  try {
    while (stale) {
      stale = false;
      await paint();
    }
  } finally {
    drawing = false;
  }
}

async function paint() {
  const first = named(runs, "run", chosen.run) ?? runs[0];
  if (!first) return;
  chosen.run = first.run;
  chosen.series = seriesOf(first).series;
  const second = chosen.beside === first.run ? undefined : named(runs, "run", chosen.beside);
  chosen.beside = second?.run ?? "";
  const wanted = second ? [first, second] : [first];
  fillChoices(first);
  tell("Loading …", "loading");
  const asked = await Promise.allSettled(wanted.map((run) => describe(run)));
  if (stale) return;
  const failed = asked.filter((one) => one.status === "rejected").map((one) => one.reason.message);
  const runsShown = wanted.filter((_, at) => asked[at].status === "fulfilled");
  const about = asked.filter((one) => one.value).map((one) => one.value);
  shown = { runs: runsShown, about };
  if (about.length) fillLayers(about[0]);
  page.summaries.replaceChildren(
    ...runsShown.map((run, at) => frontPage(run, about[at], about.length > 1)),
  );
  writeAddress(chosen);
  sections(about.length ? figuresOf(about[0]) : [], about.length);
  await paintInView();
  if (stale) return;
  tell(failed.join(" "), failed.length ? "error" : "ready");
  prepareNeighbours();
}

/** Draws the figures that are in the window; the others when the reader comes to them. */
async function paintInView() {
  const old = [...page.figures.children].filter((own) => own.drawnFrom !== shown);
  await Promise.all(
    old.map((own) => {
      const { top, bottom } = own.getBoundingClientRect();
      const inView = bottom > -AHEAD && top < window.innerHeight + AHEAD;
      own.classList.toggle("old", !inView);
      return inView ? paintFigure(own) : undefined;
    }),
  );
}

/** The server reads the reports before and after the chosen one, once nothing else is asked. */
function prepareNeighbours() {
  const now = shown;
  setTimeout(() => {
    if (drawing || now !== shown) return;
    for (const run of now.runs) {
      const { reports } = seriesOf(run);
      const at = reports.indexOf(reportOf(run));
      for (const one of [reports[at + 1], reports[at - 1]]) {
        if (one) describe(run, one).catch(() => {}); // said when it is chosen
      }
    }
  }, IDLE);
}

function fillChoices(first) {
  fill(page.run, runs.map((one) => [one.run, labelOf(one.run)]), first.run);
  const others = runs.filter((one) => one !== first).map((one) => [one.run, labelOf(one.run)]);
  fill(page.beside, [["", "no other run"], ...others], chosen.beside);
  fill(page.series, first.series.map(({ series }) => [series, series]), chosen.series);
  const { reports } = seriesOf(first);
  const report = reportOf(first);
  page.slider.max = reports.length - 1;
  page.slider.value = reports.indexOf(report);
  page.slider.disabled = page.play.disabled = reports.length < 2;
  const words = `${report.epoch} of ${reports.at(-1).epoch}`;
  page.epoch.textContent = words;
  page.slider.setAttribute("aria-valuetext", `epoch ${words}`);
}

function labelOf(run) {
  return run === "." ? "the log directory itself" : run;
}

function fillLayers({ layers }) {
  const { layer, concepts, concept } = chosenOf(layers);
  Object.assign(chosen, { layer: layer?.name ?? "", concept });
  fill(page.layer, layers.map(({ name, units }) => [name, `${name} (${units} units)`]), chosen.layer);
  fill(page.concept, concepts.map((name) => [name, name]), chosen.concept);
  const steps = (layer?.time_steps ?? []).map(String);
  if (!steps.includes(chosen.step)) chosen.step = "-1";
  const last = layer ? [["-1", "last"]] : [];
  fill(page.step, [...last, ...steps.filter((own) => own !== "-1").map((own) => [own, own])], chosen.step);
}

function frontPage(run, { summary, layers }, several) {
  const { layer, concept } = chosenOf(layers);
  const [heading = "", ...sentences] = layer?.concepts[concept] ?? [];
  const title = several ? `In words: ${labelOf(run.run)}` : "In words";
  const whole = element("details", { open: sentences.length === 0 }, [
    element("summary", { textContent: "The whole report" }),
    element("pre", { textContent: summary }),
  ]);
  return element("section", {}, [
    element("h2", { textContent: title }),
    element("p", { textContent: heading }),
    element("ul", {}, sentences.map((words) => element("li", { textContent: words }))),
    whole,
  ]);
}

/** The chosen layer and concept of a report, or its first ones. */
function chosenOf(layers) {
  const layer = named(layers, "name", chosen.layer) ?? layers[0];
  const concepts = Object.keys(layer?.concepts ?? {});
  const concept = concepts.includes(chosen.concept) ? chosen.concept : (concepts[0] ?? "");
  return { layer, concepts, concept };
}

function figuresOf({ figures, layers }) {
  const known = Object.keys(QUESTIONS).filter((name) => figures.includes(name));
  const others = figures.filter((name) => !(name in QUESTIONS));
  return [...known, ...others].filter((name) => name !== "layers" || layers.length > 1);
}

/** A section for each figure with a place for each run; those that are there stay. */
function sections(names, several) {
  for (const old of [...page.figures.children]) {
    if (!names.includes(old.dataset.figure) || Number(old.dataset.runs) !== several) old.remove();
  }
  const there = new Map([...page.figures.children].map((own) => [own.dataset.figure, own]));
  for (const name of names) page.figures.append(there.get(name) ?? section(name, several));
}

function section(name, several) {
  const about = QUESTIONS[name] ?? { title: name.replaceAll("_", " "), words: "" };
  const id = `title-${name}`;
  const places = Array.from({ length: several }, () =>
    element("div", { className: "figure", role: "img", ariaLabel: about.title }),
  );
  for (const place of places) place.style.minHeight = `${heightOf(name)}px`;
  const made = element("section", {}, [
    element("h2", { id, textContent: about.title }),
    element("p", { textContent: about.words }),
    element("p", { className: "missing", hidden: true }),
    element("div", { className: "side" }, places),
  ]);
  made.setAttribute("aria-labelledby", id);
  Object.assign(made.dataset, { figure: name, runs: several });
  return made;
}

/** Draws a figure for each run, or says why there is none: it was not measured, for example. */
async function paintFigure(own) {
  const from = shown;
  const name = own.dataset.figure;
  const missing = own.querySelector(".missing");
  own.drawnFrom = from;
  try {
    const asked = from.runs.map((run, at) => ask("figure", asking(name, run, from.about[at])));
    const figures = await Promise.all(asked);
    if (from !== shown) return;
    onOneScale(figures);
    if (figures.length > 1) figures.forEach((figure, at) => nameRun(figure, from.runs[at]));
    own.querySelector(".side").hidden = false;
    missing.hidden = true;
    const places = own.querySelectorAll(".figure");
    const height = heightOf(name);
    await Promise.all(
      figures.map((figure, at) => draw(places[at], figure, height, picking(name))),
    );
  } catch (error) {
    if (from !== shown) return;
    own.querySelector(".side").hidden = true;
    missing.hidden = false;
    missing.textContent = error.message;
  }
}

function nameRun({ layout }, { run }) {
  layout.title.text = `${labelOf(run)}, ${layout.title.text}`;
}

function heightOf(name) {
  return QUESTIONS[name]?.height ?? 430;
}

function asking(name, run, { layers }) {
  const { report, modified } = reportOf(run);
  const { layer, concept } = chosenOf(layers);
  const steps = layer?.time_steps.map(String) ?? [];
  const step = steps.includes(chosen.step) ? chosen.step : "-1";
  return {
    run: run.run,
    report,
    modified,
    figure: name,
    layer: layer?.name ?? "",
    concept,
    step,
  };
}

/** A click on a step of the map of shares chooses it. */
function picking(name) {
  return name === "relay_share" ? (point) => choose({ step: String(point.x) }) : undefined;
}

/* Playing */

function play(on) {
  playing = on;
  page.play.textContent = on ? "Pause" : "Play";
  page.play.title = on ? "Stop at this epoch" : "Show one epoch after the other";
  if (on) playOn(true);
}

async function playOn(fresh) {
  const last = Number(page.slider.max);
  const now = Number(page.slider.value);
  const next = fresh && now === last ? 0 : now + 1;
  if (next > last) {
    play(false);
    return;
  }
  page.slider.value = next;
  Object.assign(chosen, { epoch: epochAt(next) });
  await Promise.all([repaint(), new Promise((done) => setTimeout(done, PLAYED))]);
  if (playing) playOn(false);
}
