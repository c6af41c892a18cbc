/** The Relays tab: choices at the top, and below them a figure for each question. */

import { onAddress, readAddress, writeAddress } from "./address.js";
import { isDark, loadPlotly, onTheme } from "./drawing.js";
import { element } from "./element.js";
import { paintInView, showSections } from "./sections.js";
import {
  asking,
  chosen,
  chosenOf,
  KINDS,
  lacks,
  layersOf,
  nameOf,
  oneOf,
  placeIn,
  reportsOf,
  seriesOf,
  stageOf,
  stagesOf,
  timeOf,
} from "./selection.js";
import { ask, describe } from "./server.js";

const AGAIN = 15_000; // ms between looks for new reports
const SOON = 1_000; // ms between looks while the search goes on
const PLAYED = 400; // ms for each epoch at least, while playing
const IDLE = 100; // ms without a new choice before more is read than was asked for
const AROUND = 8; // epochs before and after the chosen one that are read then

const page = {};
let runs = [];
let known; // number of what the server said of its runs
let shown = [];
let drawing = false;
let stale = false;
let playing; // a number of its own for each time, undefined while nothing is played
let again; // timer of the next look for new reports

export async function render() {
  const style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = new URL("./style.css", import.meta.url);
  document.head.append(style);
  document.documentElement.lang = "en";
  const start = { ...chosen };
  Object.assign(chosen, readAddress());
  onAddress(() => choose({ ...start, ...readAddress() }));
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
}

/* The page */

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
  page.play.addEventListener("click", () => play(playing === undefined));
  page.status = element("p", { id: "status", role: "status" });
  page.notes = element("p", { id: "notes" });
  page.questions = element("nav", { id: "questions", ariaLabel: "Questions" });
  page.summaries = element("div", { className: "side", id: "summaries" });
  page.figures = element("main", { id: "figures" });
  const choices = element("form", { id: "choices", ariaLabel: "What is shown" }, [
    choice("run", "Run", "Directory of the run below TensorBoard's log directory"),
    choice("beside", "beside", "A second run, drawn on the same scales"),
    choice("stage", "Stage", "Validation or test, and the dataloader"),
    choice("relays", "Relays", "Prefix of the RelayInformationCallback"),
    choice("knockouts", "Knock-outs", "Prefix of the KnockoutCallback"),
    choice("layer", "Layer", "Recurrent layer of the model"),
    choice("concept", "Concept", "Function of the label that is followed"),
    choice("measure", "Damage to", "What knock-outs do damage to"),
    choice("step", "Step", "Time step that a figure is about or marks"),
    choice("unit", "Unit", "Hidden unit that is marked in every figure"),
    element("label", { className: "epoch" }, ["Epoch", page.slider, page.epoch]),
    page.play,
  ]);
  choices.addEventListener("submit", (event) => event.preventDefault());
  document.body.append(
    element("header", {}, [choices, page.questions]),
    page.status,
    page.notes,
    page.summaries,
    page.figures,
  );
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
    options.every(([own, text], at) => {
      const there = select.options[at];
      return there.value === own && there.textContent === text;
    });
  if (!same) {
    select.replaceChildren(
      ...options.map(([own, text]) => element("option", { value: own, textContent: text })),
    );
  }
  select.value = value;
  select.disabled = options.length < 2;
  select.parentElement.hidden = options.length === 0;
}

/* Runs */

/** Looks which reports there are, shows them if they are new, and looks again later. */
async function look() {
  clearTimeout(again);
  let found = { complete: true };
  try {
    const unseen = known !== undefined && document.visibilityState !== "visible";
    if (!unseen) found = await ask("runs", { known: known ?? "" });
    if (found.number !== undefined) update(found);
  } catch (error) {
    tell(error.message, "error");
  }
  again = setTimeout(look, found.complete ? AGAIN : SOON);
}

function update(found) {
  const changed = found.number !== known;
  if (changed) {
    known = found.number;
    runs = found.runs;
    page.notes.textContent = runs.length ? found.notes.join(" ") : "";
  }
  if (runs.length === 0) {
    if (changed) tellNoRuns(found);
  } else if (changed || document.body.dataset.state === "error") {
    repaint();
  }
}

function tellNoRuns({ logdir, complete, notes }) {
  const words = complete
    ? [
        `There are no saved reports under ${logdir || "the log directory"}.`,
        "RelayInformationCallback and KnockoutCallback save one at the end of every evaluation, " +
          "beside the logs of the first logger, or in their dirpath. They show up here by " +
          "themselves.",
        ...notes,
      ]
    : [`Looking for reports under ${logdir} …`];
  for (const part of [page.summaries, page.figures, page.questions]) part.replaceChildren();
  tell(words.join(" "), complete ? "empty" : "loading");
}

function runNamed(name) {
  return runs.find((one) => one.run === name);
}

function labelOf(run) {
  return run === "." ? "the log directory itself" : run;
}

function epochAt(place) {
  return nameOf(timeOf(runNamed(chosen.run)), Number(place));
}

/* Choosing and painting */

/** Units of two layers have nothing to do with each other. */
function choose(changes) {
  const other = (changes.layer ?? chosen.layer) !== chosen.layer;
  Object.assign(chosen, other ? { unit: "" } : {}, changes);
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
  const first = chosen.run === "" ? runs[0] : runNamed(chosen.run);
  if (!first) {
    fill(page.run, runs.map((one) => [one.run, labelOf(one.run)]), "");
    tell(`There are no reports of the run ${chosen.run}; choose another one.`, "error");
    return;
  }
  chosen.run = first.run;
  const second = chosen.beside === first.run ? undefined : runNamed(chosen.beside);
  chosen.beside = second?.run ?? "";
  fillRuns(first);
  tell("Loading …", "loading");
  const read = await Promise.all([first, second].filter(Boolean).map(readRun));
  if (stale) return;
  shown = read;
  read[0].lacking = lacks(read[0]);
  fillContents(read[0]);
  if (second) read[1].lacking = lacks(read[1]);
  writeAddress(chosen);
  paintWords(read);
  showSections(page.figures, page.questions, read, choose);
  await paintInView();
  if (stale) return;
  const failed = read.flatMap(({ failed }) => failed);
  tell(failed.join(" "), failed.length ? "error" : "ready");
  prepareNeighbours();
}

/** The chosen reports of a run with what they hold; what cannot be read is in ``failed``. */
async function readRun(run) {
  const read = { run, failed: [] };
  await Promise.all(
    Object.entries(reportsOf(run)).map(async ([kind, { series, report }]) => {
      read[kind] = { series, report };
      if (!report) return;
      try {
        read[kind].holds = await describe(run, report);
      } catch (error) {
        read.failed.push(error.message);
      }
    }),
  );
  return read;
}

/** The server reads the reports around the chosen one, as long as nothing else is asked. */
async function prepareNeighbours() {
  const now = shown;
  await new Promise((done) => setTimeout(done, IDLE));
  for (let apart = 1; apart <= AROUND; apart += 1) {
    for (const { run } of now) {
      const time = timeOf(run);
      const at = placeIn(time);
      for (const one of [time[at + apart], time[at - apart]]) {
        if (drawing || now !== shown) return;
        if (one) await describe(run, one).catch(() => {}); // said when it is chosen
      }
    }
  }
}

/* Choices */

function fillRuns(first) {
  chosen.stage = stageOf(first);
  const others = runs.filter((one) => one !== first).map((one) => [one.run, labelOf(one.run)]);
  fill(page.run, runs.map((one) => [one.run, labelOf(one.run)]), first.run);
  fill(page.beside, [["", "no other run"], ...others], chosen.beside);
  fill(page.stage, stagesOf(first).map((own) => [own, own]), chosen.stage);
  for (const kind of Object.keys(KINDS)) {
    chosen[kind] = oneOf(first, kind)?.prefix ?? "";
    const prefixes = seriesOf(first, kind).map(({ prefix }) => [prefix, prefix]);
    fill(page[kind], prefixes.length > 1 ? prefixes : [], chosen[kind]);
  }
  const time = timeOf(first);
  const at = placeIn(time);
  page.slider.max = time.length - 1;
  page.slider.value = at;
  page.slider.disabled = page.play.disabled = time.length < 2;
  const { epoch } = time[at];
  const same = time.filter((one) => one.epoch === epoch);
  const number = same.length > 1 ? `, evaluation ${same.indexOf(time[at]) + 1} of ${same.length}` : "";
  const words = `${epoch} of ${time.at(-1).epoch}${number}`;
  page.epoch.textContent = words;
  page.slider.setAttribute("aria-valuetext", `epoch ${words}`);
}

function fillContents(read) {
  const { knockouts } = read;
  const layers = layersOf(read);
  if (layers.length) {
    const { layer, concept } = chosenOf(layers);
    Object.assign(chosen, { layer: layer.name, concept });
    fill(page.layer, layers.map(({ name, units }) => [name, `${name} (${units} units)`]), layer.name);
    fill(page.concept, layer.concepts.map((own) => [own, own]), concept);
    const steps = layer.time_steps.map(String);
    if (!steps.includes(chosen.step)) chosen.step = "-1";
    const others = steps.filter((own) => own !== "-1").map((own) => [own, own]);
    fill(page.step, [["-1", "last"], ...others], chosen.step);
    if (!(Number(chosen.unit) < layer.units)) chosen.unit = "";
    const units = Array.from({ length: layer.units }, (_, unit) => [String(unit), String(unit)]);
    fill(page.unit, [["", "none"], ...units], chosen.unit);
  }
  const measures = knockouts?.holds?.measures;
  if (measures) {
    if (!measures.includes(chosen.measure)) chosen.measure = "";
    const own = chosen.concept === "" ? measures[0] : "the concept";
    fill(page.measure, [["", own], ...measures.map((name) => [name, name])], chosen.measure);
  } else if (!knockouts?.report) {
    fill(page.measure, [], "");
  }
}

/* In words */

/** Sentences about what is chosen, for each run; those of before stay until the new ones come. */
async function paintWords(read) {
  const parts = await Promise.all(read.map((one) => frontPage(one, read.length > 1)));
  if (read === shown) page.summaries.replaceChildren(...parts);
}

async function frontPage(read, several) {
  const kinds = Object.keys(KINDS).filter((kind) => read[kind]?.holds);
  const answers = await Promise.allSettled(kinds.map((kind) => ask("words", asking(read, kind))));
  const [relayed = [], broken = []] = answers.map(
    ({ value, reason }) => value?.sentences ?? [reason.message],
  );
  const words = [...relayed.slice(0, 2), ...broken, ...relayed.slice(2)];
  const nothing = read.failed.length ? "Nothing can be read." : "There are no reports at this stage.";
  const [first = nothing, ...others] = read.lacking ? [read.lacking, ...words] : words;
  const { knockouts } = read;
  if (knockouts && !knockouts.report) {
    others.push(`The first knock-outs are those of epoch ${knockouts.series.reports[0].epoch}.`);
  }
  const also = seriesOf(read.run, "knockouts").map(({ prefix }) => prefix);
  if (knockouts && also.length > 1) {
    const left = also.filter((prefix) => prefix !== knockouts.series.prefix).join(", ");
    others.push(`These are the knock-outs of ${knockouts.series.prefix}; there are also those of ${left}.`);
  }
  for (const [kind, name] of Object.entries({ relays: "Relays", knockouts: "Knock-outs" })) {
    const stages = stagesOf(read.run, kind).join(" and ");
    if (!read[kind] && stages) others.push(`${name} were measured at the stage ${stages}; choose it above.`);
  }
  return element("section", {}, [
    element("h2", { textContent: several ? `In words: ${labelOf(read.run.run)}` : "In words" }),
    element("p", { className: "first", textContent: first }),
    element("ul", {}, others.map((own) => element("li", { textContent: own }))),
    element("details", {}, [
      element("summary", { textContent: "The whole report" }),
      ...kinds.map((kind) => element("pre", { textContent: read[kind].holds.summary })),
    ]),
  ]);
}

/* Playing */

function play(on) {
  playing = on ? performance.now() : undefined;
  page.play.textContent = on ? "Pause" : "Play";
  page.play.title = on ? "Stop at this epoch" : "Show one epoch after the other";
  if (on) playOn(true);
}

async function playOn(fresh) {
  const own = playing;
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
  if (playing === own) playOn(false);
}
