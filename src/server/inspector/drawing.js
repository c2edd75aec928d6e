// Drawings of the timeline: paths, in units of their own, of what is in sight.

import { svg } from './dom.js';

/** Drawings are this wide in their own units. */
export const WIDTH = 1000;
export const GUEST_HEIGHT = 22;
export const MEMORY_HEIGHT = 34;

/** An empty drawing, with paths of these kinds. */
export function drawing(height, kinds) {
  const paths = kinds.map((kind) => svg('path', { class: kind }));
  return { paths, drawn: svg('svg', { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, paths) };
}

/** A hostcall, and the share of the time between its first and its last that was spent in it. */
export const within = (call) => ({ begin: call.begun_us, end: call.ended_us, share: call.ended_us > call.begun_us ? Math.min(1, call.time_us / (call.ended_us - call.begun_us)) : 1 });

const placed = (at, { from, span }) => Math.max(-2, Math.min(WIDTH + 2, ((at - from) / span) * WIDTH));

/** Blocks of a drawing; those of calls in a row are as high as their share of the time. */
export function blocks(list, scale, y, height) {
  return list.map(({ begin, end, share }) => {
    const x = placed(begin, scale);
    const wide = Math.max(scale.unit, placed(end, scale) - x);
    const high = Math.max(2, height * share);
    return `M${x.toFixed(2)} ${(y + height - high).toFixed(1)}h${wide.toFixed(2)}v${high.toFixed(1)}h${(-wide).toFixed(2)}z`;
  }).join('');
}

/** The area under a curve of steps, and the curve. */
export function curve(steps, most, scale) {
  const high = (size) => (MEMORY_HEIGHT - (size / most) * (MEMORY_HEIGHT - 4)).toFixed(1);
  const first = placed(steps[0][0], scale).toFixed(2);
  const line = `M${first} ${high(steps[0][1])}${steps.map(([at, size]) => `H${placed(at, scale).toFixed(2)}V${high(size)}`).join('')}`;
  return [`${line}V${MEMORY_HEIGHT}H${first}z`, line];
}
