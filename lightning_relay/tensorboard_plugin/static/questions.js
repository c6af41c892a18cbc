/** The figures in the order of the page: title, how to read it, height in pixels. */

export const QUESTIONS = {
  relay_share: {
    title: "Where is it?",
    words:
      "Bars: bits of the label that all units together carry into the prediction, at each step. " +
      "Grey: not all input was seen yet. Hollow: too few sequences to be sure. Below, the share of " +
      "each unit; white is nothing, orange below 0 (noise). Click on a cell to choose its step and " +
      "unit.",
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
      "stays. Blue only on the diagonal: it moves to other units. Orange: less than random units. " +
      "Grey cannot be measured. Framed: the units of the chosen step. At the right, the mean over " +
      "all pairs that are equally far apart.",
    height: 430,
  },
  prediction: {
    title: "Does it matter?",
    words:
      "Each point is a random set of units that were held: damage over what the set relays, and " +
      "over its size. If points rise more closely with bits than with size, what is relayed tells " +
      "what breaks.",
    height: 430,
  },
  damage: {
    title: "What breaks without a unit?",
    words:
      "What is lost when each set of units is held at a value, with 95 % intervals. The menu sorts. " +
      "“Damage to” above chooses a class, a concept or a metric.",
    height: 430,
  },
  damage_map: {
    title: "What does each set of units matter for?",
    words: "Damage by each set to accuracy, concepts and classes, or to metrics. The menu sorts.",
    height: 520,
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
  deletion: {
    title: "How many units can go?",
    words: "Accuracy while units are held one after the other, in different orders.",
    height: 430,
  },
  step_damage: {
    title: "When does each unit matter?",
    words: "Damage by single units that are held at single steps.",
    height: 430,
  },
  history: {
    title: "When did it form?",
    words:
      "At the chosen step, over the epochs: bits that all units relay, the accuracy, and the share " +
      "of each unit. Click on a line to choose its unit.",
    height: 520,
  },
  latent: {
    title: "What does the state do?",
    words:
      "Paths of the states of each class, over the two directions in which they differ most, and " +
      "where they would settle.",
    height: 520,
  },
  layers: {
    title: "All layers",
    words: "Bits that all units of each layer relay, at each step. Click on a cell to choose it.",
    height: 320,
  },
  greedy_order: {
    title: "In which order do units matter?",
    words:
      "Place of each unit when units are taken away one after the other; dark units leave last. " +
      "Units with one shade are tied.",
    height: 430,
  },
};

/** What there is to say of a figure, also of one that this page does not know. */
export function about(name) {
  return QUESTIONS[name] ?? { title: name.replaceAll("_", " "), words: "", height: 430 };
}

/** Names of figures in the order of the page; unknown ones last. */
export function inOrder(names) {
  const order = Object.keys(QUESTIONS);
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  return [...names].sort((a, b) => place(a) - place(b));
}
