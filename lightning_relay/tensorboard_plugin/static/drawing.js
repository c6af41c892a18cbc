/** Figures on the page: plotly's bundle, the theme of TensorBoard, one scale for two runs. */

const LIGHT = { text: "#212121", grid: "#dddddd", soft: "#9e9e9e", mark: "black" };
const DARK = { text: "#eeeeee", grid: "#555555", soft: "#9e9e9e", mark: "white" };

const BELOW = 110; // pixels below the axes, for the legend

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

/** Draws a figure, or redraws it in place; one after the other, each shown before the next. */
export function draw(...figure) {
  const own = turn.then(() => drawNow(...figure));
  turn = own.catch(() => {}).then(() => new Promise((done) => setTimeout(done)));
  return own;
}

async function drawNow(place, figure, height, picked) {
  const plotly = await loadPlotly();
  const colours = isDark() ? DARK : LIGHT;
  const below = roomBelow(figure, place.clientWidth);
  const layout = {
    ...figure.layout,
    height: height + below,
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    margin: { ...figure.layout.margin, b: BELOW + below },
    legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.text },
    font: { color: colours.text, family: "Roboto, sans-serif" },
  };
  for (const name of Object.keys(layout).filter((own) => /^[xy]axis/.test(own))) {
    layout[name] = { ...layout[name], gridcolor: colours.grid, linecolor: colours.grid };
  }
  const data = figure.data.map((trace) => recoloured(trace, colours.mark));
  const config = { responsive: true, displaylogo: false };
  await plotly.react(place, data, layout, config);
  const { text, subtitle } = layout.title ?? {};
  place.ariaLabel = [text, subtitle?.text].filter(Boolean).join(": ");
  place.removeAllListeners("plotly_click");
  if (picked) place.on("plotly_click", ({ points }) => picked(points[0]));
}

/** Pixels that the legend of a narrow figure takes beyond those of a wide one. */
function roomBelow(figure, width) {
  if (width > 800) return 0;
  const shown = figure.data.filter((own) => /^(scatter|bar)$/.test(own.type) && own.showlegend !== false);
  return Math.max(0, 17 * shown.length + 60 - BELOW);
}

/** Black marks would not be seen on a dark page. */
function recoloured(trace, mark) {
  const own = { ...trace };
  if (own.marker?.color === "black") own.marker = { ...own.marker, color: mark };
  if (own.error_y?.color === "black") own.error_y = { ...own.error_y, color: mark };
  return own;
}

/** Gives figures that stand side by side the same scales of colours and values. */
export function onOneScale(figures) {
  if (figures.length < 2) return;
  const maps = figures.flatMap((one) => one.data.filter((trace) => trace.zmax !== undefined));
  const widest = maps.reduce((a, b) => (b.zmax > a.zmax ? b : a), maps[0]);
  for (const map of maps) {
    Object.assign(map, { zmin: widest.zmin, zmax: widest.zmax, colorscale: widest.colorscale });
  }
  const axes = figures.map((one) => one.layout.yaxis).filter((own) => own?.range);
  const low = Math.min(...axes.map((own) => own.range[0]));
  const high = Math.max(...axes.map((own) => own.range[1]));
  for (const own of axes) own.range = [low, high];
}
