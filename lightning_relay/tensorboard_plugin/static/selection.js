/** What is chosen, and which reports of a run that means. */

/** An empty epoch is the newest, step -1 the one that a layer computes last. */
export const chosen = {
  run: "",
  beside: "",
  stage: "",
  relays: "",
  knockouts: "",
  layer: "",
  concept: "",
  measure: "",
  epoch: "",
  step: "-1",
  unit: "",
};

/** Kinds of reports, by the choice among the callbacks that make them. */
export const KINDS = { relays: "relay", knockouts: "knock-out" };

/** The stages of a run, or those at which it has reports of a kind. */
export function stagesOf(run, kind) {
  const own = kind ? run.series.filter((one) => one.kind === KINDS[kind]) : run.series;
  return [...new Set(own.map(({ stage }) => stage))];
}

export function stageOf(run) {
  const stages = stagesOf(run);
  return stages.includes(chosen.stage) ? chosen.stage : stages[0];
}

/** Series of a kind at the chosen stage, one for each callback; another run may have none. */
export function seriesOf(run, kind) {
  return run.series.filter((one) => one.stage === chosen.stage && one.kind === KINDS[kind]);
}

/** The chosen series of a kind, or the first; undefined if there is none. */
export function oneOf(run, kind) {
  const series = seriesOf(run, kind);
  return series.find(({ prefix }) => prefix === chosen[kind]) ?? series[0];
}

/** The reports that the slider goes through: relays, or knock-outs where there are no relays. */
export function timeOf(run) {
  return (oneOf(run, "relays") ?? oneOf(run, "knockouts"))?.reports ?? [];
}

/** The place of a report as it is chosen: its epoch; with a number if the epoch goes on after it. */
export function nameOf(reports, at) {
  if (at === reports.length - 1) return "";
  const { epoch } = reports[at];
  if (reports[at + 1].epoch !== epoch) return String(epoch);
  return `${epoch}:${at - reports.findIndex((one) => one.epoch === epoch)}`;
}

/** Index of the chosen report, or of the last one before it. */
export function placeIn(reports) {
  if (chosen.epoch === "") return reports.length - 1;
  const [epoch, number] = chosen.epoch.split(":").map(Number);
  const last = reports.findLastIndex((one) => one.epoch <= epoch);
  const first = reports.findIndex((one) => one.epoch === epoch);
  if (number !== undefined && first >= 0) return Math.min(first + number, last);
  return Math.max(last, 0);
}

/** The chosen report of each kind; knock-outs are the last up to the relays, undefined if none. */
export function reportsOf(run) {
  const time = timeOf(run);
  const now = time[placeIn(time)];
  const found = {};
  if (!now) return found;
  for (const kind of Object.keys(KINDS)) {
    const series = oneOf(run, kind);
    const report = series?.reports.findLast((one) => one.step <= now.step);
    if (series) found[kind] = { series, report };
  }
  return found;
}

/** The layers of a run's relays, or of its knock-outs where there are no relays. */
export function layersOf({ relays, knockouts }) {
  return (relays ?? knockouts)?.holds?.layers ?? [];
}

/** The chosen layer and concept, or the first ones. */
export function chosenOf(layers) {
  const layer = layers.find(({ name }) => name === chosen.layer) ?? layers[0];
  const concept = layer.concepts.includes(chosen.concept) ? chosen.concept : layer.concepts[0];
  return { layer, concept: concept ?? "" };
}

/** A sentence if a run lacks the chosen layer, concept or step, and another is shown; else "". */
export function lacks(read) {
  const layers = layersOf(read);
  if (layers.length === 0) return "";
  const { layer, concept } = chosenOf(layers);
  const other = [];
  if (!["", layer.name].includes(chosen.layer)) other.push(`layer ${chosen.layer}, but ${layer.name}`);
  if (!["", concept].includes(chosen.concept)) other.push(`concept ${chosen.concept}, but ${concept}`);
  if (!["-1", ...layer.time_steps.map(String)].includes(chosen.step)) {
    other.push(`step ${chosen.step}, but its last`);
  }
  return other.length ? `This run does not have what is chosen: ${other.join("; ")} is shown.` : "";
}

/** What a request says of a report of a run, and of what is chosen as far as the run has it. */
export function asking(read, kind) {
  const { report, modified } = read[kind].report;
  const { measure, unit } = chosen;
  const asked = { run: read.run.run, report, modified, measure, unit };
  const layers = layersOf(read);
  if (layers.length === 0) return asked;
  const { layer, concept } = chosenOf(layers);
  const step = layer.time_steps.map(String).includes(chosen.step) ? chosen.step : "-1";
  return { ...asked, layer: layer.name, concept, step, last: layer.last };
}
