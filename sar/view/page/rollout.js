// One rollout: its texts, its verdict and numbers, its heat-map on demand, and its siblings.

import { RequestError, appendText, ask, explain, find, format, make, makeVerdict } from "./data.js";

const FACTS = [
  ["answer", "answer"],
  ["label", "label"],
  ["grader", "grader"],
  ["policy version", "policy_version"],
  ["tokens", "num_response_tokens"],
  ["perplexity with the question", "ppl_qa"],
  ["perplexity without it", "ppl_a"],
  ["SAR", "sar"],
  ["weight of SAR", "sar_weight"],
  ["request", "request_id"],
  ["group", "group"],
  ["special tokens", "special_tokens"],
  ["time", "time_text"],
  ["model", "model"],
];
const FLAGS = [
  ["over_context", "cut to fit the context"],
  ["label_unreadable", "the label could not be read"],
  ["template_mismatch", "the prompt has another template"],
];

let canExplain = true;
let shown = 0;

export async function openRollout(number, mayExplain) {
  shown = number;
  const dialog = find("rollout");
  find("rollout-title").textContent = `Rollout ${number.toLocaleString("en-US")}`;
  find("rollout-error").hidden = true;
  if (!dialog.open) dialog.showModal();
  try {
    const answer = await ask("rollout", { id: number });
    if (shown === number) showRollout(answer, mayExplain && canExplain);
  } catch (error) {
    if (shown === number) showError(error);
  }
}

function showError(error) {
  find("rollout-body").replaceChildren();
  find("rollout-error").textContent = error.message;
  find("rollout-error").hidden = false;
}

function showRollout({ rollout, siblings }, mayExplain) {
  const summary = make("p", {}, makeVerdict(rollout), ` · reward ${format(rollout.reward, 4)} · SAR ${format(rollout.sar, 4)}`);
  for (const [name, text] of FLAGS) if (rollout[name]) summary.append(` · ${text}`);
  const response = appendText(make("pre", { id: "response", dir: "auto" }), rollout.response);
  const heading = make("h3", { text: describeLength("Response", rollout.num_response_chars, rollout.response) });
  const body = [
    summary,
    makeFacts(rollout),
    ...makeTerms(rollout.terms),
    make("h3", { text: describeLength("Prompt", rollout.num_prompt_chars, rollout.prompt) }),
    appendText(make("pre", { id: "prompt", dir: "auto" }), rollout.prompt),
    heading,
    response,
  ];
  const isWhole = rollout.response.length >= rollout.num_response_chars && rollout.prompt.length >= rollout.num_prompt_chars;
  if (mayExplain && isWhole) heading.append(" ", makeHeatButton(rollout, response));
  if (siblings.length > 1) body.push(...makeSiblings(rollout, siblings));
  find("rollout-body").replaceChildren(...body);
  find("rollout").scrollTop = 0;
}

function describeLength(name, numChars, text) {
  // The server counts code points, and a text in JavaScript has one or two units for each.
  const isCut = Array.from(text).length < numChars;
  return `${name}, ${numChars.toLocaleString("en-US")} characters${isCut ? " (its start)" : ""}`;
}

function makeFacts(rollout) {
  const list = make("dl");
  for (const [title, name] of FACTS) {
    const value = rollout[name];
    if (value === null || value === undefined || value === "" || value.length === 0) continue;
    const text = typeof value === "number" ? format(value, 4) : typeof value === "string" ? value : JSON.stringify(value);
    list.append(make("div", {}, make("dt", { text: title }), appendText(make("dd", { dir: "auto" }), text)));
  }
  return list;
}

function makeTerms(terms) {
  if (!terms || !Object.keys(terms).length) return [];
  const list = make("dl");
  for (const [name, value] of Object.entries(terms)) {
    list.append(make("div", {}, make("dt", { text: name }), make("dd", { text: format(value, 4) })));
  }
  return [make("h3", { text: "Terms, before weights" }), list];
}

function makeSiblings(rollout, siblings) {
  const cards = siblings.map((one) => {
    const link = make("a", { href: `#rollout=${one.id}`, text: one.id.toLocaleString("en-US") });
    const facts = ` · reward ${format(one.reward)} · SAR ${format(one.sar)} · ${one.num_tokens} tokens`;
    const text = appendText(make("pre", { dir: "auto" }), one.response);
    if (Array.from(one.response).length < one.num_chars) text.append(" …");
    const className = one.id === rollout.id ? "sibling current" : "sibling";
    return make("div", { className }, make("p", {}, link, " ", makeVerdict(one), facts), text);
  });
  return [make("h3", { text: `Its group, ${siblings.length} rollouts` }), make("div", { className: "siblings" }, ...cards)];
}

function makeHeatButton(rollout, place) {
  const button = make("button", { id: "heat", text: "What the question explains" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const { rollouts } = await explain(rollout);
      showHeat(rollouts[0], place, button);
    } catch (error) {
      const isMissing = error instanceof RequestError && error.status === 404;
      if (isMissing) canExplain = false;
      if (isMissing) button.remove();
      else button.textContent = `no heat-map: ${error.message}`;
    }
  });
  return button;
}

// Several tokens may be parts of one character: they share its span, and their numbers add up.
function mergeTokens(tokens) {
  const merged = [];
  for (const token of tokens) {
    const last = merged[merged.length - 1];
    if (last && last.start === token.start && last.end === token.end) {
      last.nll_qa += token.nll_qa;
      last.nll_a += token.nll_a;
    } else merged.push({ ...token });
  }
  return merged;
}

function showHeat(explained, place, button) {
  const chars = Array.from(explained.response);
  const tokens = mergeTokens(explained.tokens);
  const gains = tokens.map((token) => token.nll_a - token.nll_qa);
  const most = Math.max(1e-9, ...gains.map(Math.abs));
  place.replaceChildren();
  let end = 0;
  tokens.forEach((token, index) => {
    if (token.start > end) appendText(place, chars.slice(end, token.start).join(""));
    const span = appendText(make("span", { className: "token" }), chars.slice(Math.max(end, token.start), token.end).join(""));
    const share = Math.round((100 * Math.abs(gains[index])) / most);
    const name = gains[index] >= 0 ? "--right" : "--wrong";
    span.style.backgroundColor = `color-mix(in srgb, var(${name}) ${Math.round(share * 0.7)}%, transparent)`;
    span.title = `nll with the question ${format(token.nll_qa, 4)}, without ${format(token.nll_a, 4)}, explained ${format(gains[index], 4)}`;
    place.append(span);
    end = Math.max(end, token.end);
  });
  appendText(place, chars.slice(end).join(""));
  const total = gains.reduce((sum, gain) => sum + gain, 0);
  const scale = make("span", { className: "scale" });
  button.replaceWith(make("span", { className: "hint", id: "heat-scale" }, `−${format(most)} `, scale, ` +${format(most)} nats that the question explains of a token; ${format(total)} in all`));
}
