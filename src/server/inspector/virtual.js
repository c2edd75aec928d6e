// A list of any length, of which only the rows in sight are in the page.

const BEYOND = 8;

export class Rows {
  #scroller;
  #all;
  #make;
  #update;
  #height = 30;
  #items = [];
  #places = new Map();
  #shown = new Map();
  #isDue = false;

  /** `make()`: an empty row; `update(row, item, index)`: fills it. Items have an `id`. */
  constructor(scroller, all, { make, update }) {
    this.#scroller = scroller;
    this.#all = all;
    this.#make = make;
    this.#update = update;
    scroller.addEventListener('scroll', () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(scroller);
  }

  get items() {
    return this.#items;
  }

  get isAtTop() {
    return this.#scroller.scrollTop < 2;
  }

  /** How many rows are in sight. */
  get page() {
    return Math.max(1, Math.floor(this.#scroller.clientHeight / this.#height) - 1);
  }

  indexOf(id) {
    return this.#places.get(id) ?? -1;
  }

  rowOf(id) {
    return this.#shown.get(id);
  }

  setHeight(height) {
    if (height === this.#height) return;
    const top = this.#scroller.scrollTop / this.#height;
    this.#height = height;
    this.#resize();
    this.#scroller.scrollTop = top * height;
    this.draw();
  }

  /** Other items. Rows that are looked at stay where they are, unless they are at the top. */
  set(items) {
    const held = this.isAtTop ? null : this.#items[Math.floor(this.#scroller.scrollTop / this.#height)];
    const before = held ? this.#places.get(held.id) : -1;
    this.#items = items;
    this.#places = new Map(items.map((item, index) => [item.id, index]));
    this.#resize();
    const after = held ? this.indexOf(held.id) : -1;
    if (after >= 0 && after !== before) this.#scroller.scrollTop += (after - before) * this.#height;
    this.draw();
  }

  toTop() {
    this.#scroller.scrollTop = 0;
  }

  /** Scrolls no further than needed for a row to be seen. */
  reveal(index) {
    const top = index * this.#height;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop) this.#scroller.scrollTop = top;
    else if (top + this.#height > scrollTop + clientHeight) this.#scroller.scrollTop = top + this.#height - clientHeight;
    this.#drawNow();
  }

  /** Draws before the next frame. */
  draw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#drawNow());
  }

  #resize() {
    this.#all.style.height = `${this.#items.length * this.#height}px`;
  }

  #drawNow() {
    this.#isDue = false;
    const { scrollTop, clientHeight } = this.#scroller;
    const first = Math.max(0, Math.floor(scrollTop / this.#height) - BEYOND);
    const last = Math.min(this.#items.length, Math.ceil((scrollTop + clientHeight) / this.#height) + BEYOND);
    const spare = this.#takeAway(first, last);
    // Rows are in the page in the order in which they are seen.
    let before = null;
    for (let index = first; index < last; index += 1) before = this.#place(index, spare, before);
    for (const row of spare) row.remove();
  }

  /** Rows that are no longer in sight, to be used for others. */
  #takeAway(first, last) {
    const spare = [];
    for (const [id, row] of this.#shown) {
      const index = this.indexOf(id);
      if (index >= first && index < last) continue;
      this.#shown.delete(id);
      spare.push(row);
    }
    return spare;
  }

  #place(index, spare, before) {
    const item = this.#items[index];
    let row = this.#shown.get(item.id);
    if (!row) {
      row = spare.pop() ?? this.#make();
      this.#shown.set(item.id, row);
    }
    const next = before === null ? this.#all.firstChild : before.nextSibling;
    if (next !== row) this.#all.insertBefore(row, next);
    row.style.transform = `translateY(${index * this.#height}px)`;
    this.#update(row, item, index);
    return row;
  }
}
