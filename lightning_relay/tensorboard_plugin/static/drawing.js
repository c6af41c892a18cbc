/** Figures on the page: plotly's bundle, the theme of TensorBoard, one scale for two runs. */

const LIGHT = { page: "#ffffff", text: "#212121", grid: "#dddddd", soft: "#9e9e9e", mark: "black" };
const DARK = { page: "#303030", text: "#eeeeee", grid: "#555555", soft: "#9e9e9e", mark: "white" };

const LETTER = 6.2; // pixels of a letter of the words below a title, on average
const LINE = 16; // pixels of a line of them
const BELOW = 110; // pixels below the axes that the height of a figure allows for

let loading;

/** plotly, loaded once; an Error says in words why it cannot be. */
export function loadPlotly() {
  loading ??= new Promise((done, failed) => {
    const source = new URL("./plotly.min.js", import.meta.url);
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => done(window.Plotly);
    script.onerror = async () => {
      loading = undefined;
      try {
        failed(new Error((await (await fetch(source)).json()).error));
      } catch {
        failed(new Error("plotly cannot be loaded; is TensorBoard still running?"));
      }
    };
    document.head.append(script);
  });
  return loading;
}

/** Whether TensorBoard is dark; where its page is out of reach, whether the system is. */
export function isDark() {
  try {
    return window.parent.document.body.classList.contains("dark-mode");
  } catch {
    return window.matchMedia("(prefers-color-scheme: dark)").matches;
  }
}

/** Calls back at every change of it. */
export function onTheme(changed) {
  try {
    const body = window.parent.document.body;
    new MutationObserver(changed).observe(body, { attributeFilter: ["class"] });
  } catch {
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  }
}

let turn = Promise.resolve();

/** Draws a figure, or redraws it in place; one after the other, each shown before the next.
 *
 * The options are its height in pixels, its name, and what is called with a point that is clicked.
 */
export function draw(...figure) {
  const own = turn.then(() => drawNow(...figure));
  turn = own.catch(() => {}).then(() => new Promise((done) => setTimeout(done)));
  return own;
}

async function drawNow(place, figure, { height, name, picked }) {
  const plotly = await loadPlotly();
  const colours = isDark() ? DARK : LIGHT;
  const { layout: given, data: traces } = figure;
  const width = place.clientWidth;
  const below = roomBelow(figure, width);
  const { words, more } = wrapped(given.title.subtitle.text, width - (given.updatemenus ? 180 : 40));
  const layout = {
    ...given,
    title: { ...given.title, subtitle: { ...given.title.subtitle, text: words } },
    height: height + below - BELOW + more,
    autosize: true,
    paper_bgcolor: colours.page,
    margin: { ...given.margin, t: given.margin.t + more, b: below },
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.text },
    font: { color: colours.text, family: "Roboto, sans-serif" },
  };
  for (const name of Object.keys(layout).filter((own) => /^[xy]axis/.test(own))) {
    layout[name] = { ...layout[name], gridcolor: colours.grid, linecolor: colours.grid };
  }
  const data = traces.map((trace) => recoloured(trace, colours.mark));
  const config = {
    responsive: true,
    displaylogo: false,
    toImageButtonOptions: { filename: name, scale: 2 },
  };
  await plotly.react(place, data, layout, config);
  place.ariaLabel = `${given.title.text}: ${given.title.subtitle.text.replaceAll("<br>", "; ")}`;
  place.removeAllListeners("plotly_click");
  place.on("plotly_click", ({ points }) => picked(points[0]));
}

/** A text in lines of a width in pixels, and the pixels that its further lines take. */
function wrapped(text, width) {
  const lines = text.split("<br>").flatMap((line) => {
    const parts = [""];
    for (const word of line.split(" ")) {
      const longer = `${parts.at(-1)} ${word}`.trim();
      if (longer.length * LETTER > width && parts.at(-1)) parts.push(word);
      else parts[parts.length - 1] = longer;
    }
    return parts;
  });
  return { words: lines.join("<br>"), more: LINE * (lines.length - text.split("<br>").length) };
}

/** Pixels below the axes: for their titles, for a slider, and for a legend, long where it is narrow. */
function roomBelow({ data, layout }, width) {
  const named = data.filter((own) => /^(scatter|bar)$/.test(own.type) && own.showlegend !== false);
  const axes = layout.sliders ? 150 : 60;
  if (named.length < 2 && !layout.showlegend) return axes;
  const longest = Math.max(...named.map(({ name }) => name.length));
  const columns = Math.max(1, Math.floor((width - 80) / (LETTER * longest + 60)));
  return axes + LINE * 1.2 * Math.ceil(named.length / columns) + 10;
}

/** Black marks would not be seen on a dark page. */
function recoloured(trace, mark) {
  const own = { ...trace };
  if (own.marker?.color === "black") own.marker = { ...own.marker, color: mark };
  if (own.error_y?.color === "black") own.error_y = { ...own.error_y, color: mark };
  return own;
}

/** Gives figures that stand side by side the same scales of colours and of bits. */
export function onOneScale(figures) {
  if (figures.length < 2) return;
  const maps = figures.flatMap((one) => one.data.filter((trace) => trace.zmax !== undefined));
  const widest = maps.reduce((a, b) => (b.zmax > a.zmax ? b : a), maps[0]);
  for (const map of maps) {
    Object.assign(map, { zmin: widest.zmin, zmax: widest.zmax, colorscale: widest.colorscale });
  }
  const shared = figures.map(({ layout }) => layout.coloraxis).filter(Boolean);
  const most = Math.max(...shared.map(({ cmax }) => cmax));
  for (const own of shared) Object.assign(own, { cmin: -most, cmax: most });
}

/** Gives drawn figures that stand side by side the same ends of their axes of numbers. */
export async function onOneRange(places) {
  const [first, ...others] = places.map((place) => place._fullLayout);
  if (others.length === 0) return;
  const ranges = {};
  for (const name of Object.keys(first).filter((own) => /^[xy]axis\d*$/.test(own))) {
    const axes = [first, ...others].map((layout) => layout[name]);
    if (axes.every((own) => own?.type === "linear" && own.range[0] < own.range[1])) {
      const ends = axes.map((own) => own.range);
      ranges[`${name}.range`] = [
        Math.min(...ends.map(([low]) => low)),
        Math.max(...ends.map(([, high]) => high)),
      ];
    }
  }
  await Promise.all(places.map((place) => window.Plotly.relayout(place, { ...ranges })));
}
