// What is said of the thing under the pointer, or of the one that has the focus.

import { byId, facts } from './dom.js';

const GAP_PX = 14;
let owner = null;

/** Shows facts beside a point; for screen readers they describe `anchor`. */
export function showTip(anchor, name, pairs, x, y) {
  const tip = byId('tip');
  if (owner !== anchor) {
    hideTip();
    owner = anchor;
    const title = document.createElement('strong');
    title.textContent = name;
    tip.replaceChildren(title, facts(pairs));
    tip.hidden = false;
    anchor.setAttribute('aria-describedby', 'tip');
  }
  place(tip, x, y);
}

function place(tip, x, y) {
  const { offsetWidth: width, offsetHeight: height } = tip;
  const left = Math.max(4, Math.min(x + GAP_PX, innerWidth - width - 4));
  const below = y + GAP_PX;
  const top = below + height < innerHeight ? below : Math.max(4, y - height - GAP_PX);
  tip.style.transform = `translate(${left}px, ${top}px)`;
}

/** Hides it; whether it was there. */
export function hideTip() {
  const was = owner !== null;
  owner?.removeAttribute('aria-describedby');
  owner = null;
  byId('tip').hidden = true;
  return was;
}
