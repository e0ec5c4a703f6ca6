"use strict";
// Shows a token's numbers. Texts are set as text only.
{
  const box = document.getElementById("numbers");
  const places = new Map(); // of an element: its response, and its place there
  const responses = [...document.querySelectorAll(".response")].map((block) => {
    const one = {
      block,
      pieces: block.querySelectorAll("i"),
      numbers: JSON.parse(block.nextElementSibling.textContent),
    };
    one.pieces.forEach((piece, place) => places.set(piece, { one, place }));
    return one;
  });
  let shown = null;

  const hide = () => {
    box.hidden = true;
    shown?.classList.remove("here");
    shown = null;
  };

  // Adding 0 takes the sign from a very small number below 0.
  const format = (value) => (Math.round(value * 1000) / 1000 + 0).toFixed(3).replace("-", "\u2212");

  const show = (piece) => {
    const { one, place } = places.get(piece);
    const [numTokens, nllQa, nllA] = one.numbers[place];
    const text = JSON.stringify(piece.textContent).replace(/^(.{80}).*$/s, "$1\u2026");
    const tokens = numTokens === 1 ? "" : ` (${numTokens} tokens)`;
    box.textContent = `${text}${tokens}\nnll_qa ${format(nllQa)}\nnll_a ${format(nllA)}\n`
      + `nll_a \u2212 nll_qa ${format(nllA - nllQa)}`;
    shown?.classList.remove("here");
    shown = piece;
    piece.classList.add("here");
    box.hidden = false;
    const at = piece.getClientRects()[0] ?? piece.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - box.offsetWidth - 8);
    const isRoom = at.bottom + box.offsetHeight + 12 < innerHeight;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${isRoom ? at.bottom + 6 : Math.max(8, at.top - box.offsetHeight - 6)}px`;
  };

  document.addEventListener("pointerover", (event) => {
    const piece = event.target.closest?.(".response i");
    if (piece) show(piece);
    else hide();
  });
  document.addEventListener("scroll", hide, true);
  for (const { block, pieces } of responses) {
    block.addEventListener("blur", hide);
    block.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !pieces.length || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const isHere = shown && places.get(shown).one.block === block;
      const place = isHere ? places.get(shown).place + step : 0;
      const piece = pieces[Math.max(0, Math.min(pieces.length - 1, place))];
      piece.scrollIntoView({ block: "nearest" });
      requestAnimationFrame(() => requestAnimationFrame(() => show(piece)));
    });
  }
}
