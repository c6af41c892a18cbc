/** The view in the address of TensorBoard's page, so that a link shows the same view.
 *
 * The tab runs in a frame of the same origin. TensorBoard keeps what stands in its own address as
 * "#lightning_relay&p.lightning_relay.name=value"; outside TensorBoard the frame's address is used.
 */

const PLUGIN = "lightning_relay";
const FIRST = `p.${PLUGIN}.`;

function page() {
  try {
    if (window.parent.location.hash !== undefined) return window.parent;
  } catch {
    // TensorBoard itself is in a frame of another origin
  }
  return window;
}

/** The chosen values by name. */
export function readAddress() {
  const chosen = {};
  for (const part of page().location.hash.slice(1).split("&")) {
    const [name, value] = part.split("=", 2);
    try {
      if (value !== undefined && name.startsWith(FIRST)) {
        chosen[name.slice(FIRST.length)] = decodeURIComponent(value);
      }
    } catch {
      // an address that was cut off
    }
  }
  return chosen;
}

/** Calls back when somebody changes the address of this tab, by a link or by hand. */
export function onAddress(changed) {
  const own = page();
  own.addEventListener("hashchange", () => {
    if (own.location.hash.slice(1).split("&", 1)[0] === PLUGIN) changed();
  });
}

/** Writes them without a new entry in the browser's history. */
export function writeAddress(chosen) {
  const own = page();
  const parts = Object.entries(chosen)
    .filter(([, value]) => value !== undefined && value !== "")
    .map(([name, value]) => `${FIRST}${name}=${encodeURIComponent(value)}`);
  const hash = `#${[PLUGIN, ...parts].join("&")}`;
  const shown = own.location.hash.slice(1).split("&", 1)[0];
  // While another tab is shown, the address is that tab's.
  if ((own === window || shown === PLUGIN || shown === "") && own.location.hash !== hash) {
    own.history.replaceState(own.history.state, "", hash);
  }
}
