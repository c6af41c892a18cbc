/** Questions to the server of the tab. */

/** Address of a route, with its parameters. */
export function addressOf(route, parameters = {}) {
  const address = new URL(`../${route}`, import.meta.url);
  address.search = new URLSearchParams(parameters);
  return address;
}

/** The answer of a route; an Error has words. */
export async function ask(route, parameters) {
  let answer;
  try {
    answer = await fetch(addressOf(route, parameters));
  } catch {
    throw new Error("TensorBoard does not answer; is it still running?");
  }
  const failed = `TensorBoard answered with ${answer.status} ${answer.statusText}.`;
  let read;
  try {
    read = await answer.json();
  } catch {
    throw new Error(failed);
  }
  if (!answer.ok || read.error) throw new Error(read.error ?? failed);
  return read;
}

const described = new Map();

/** What a report holds, asked once. */
export function describe(run, { report, modified }) {
  const key = JSON.stringify([run.run, report, modified]);
  if (!described.has(key)) {
    described.set(key, ask("report", { run: run.run, report, modified }));
    described.get(key).catch(() => described.delete(key));
  }
  return described.get(key);
}
