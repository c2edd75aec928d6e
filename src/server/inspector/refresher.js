// Views that are asked for anew while they are seen.

import { el } from './dom.js';

export class Refresher {
  #work;
  #everyMs;
  #timer = null;
  #isShown = false;

  /** `work(isFirst)` asks and shows; what it throws is shown in `problem`. */
  constructor(everyMs, work) {
    this.#everyMs = everyMs;
    this.#work = work;
    this.problem = el('p', { class: 'problem', role: 'alert' });
  }

  show() {
    if (this.#isShown) return;
    this.#isShown = true;
    this.#run();
  }

  hide() {
    this.#isShown = false;
    clearTimeout(this.#timer);
  }

  async #run() {
    if (!document.hidden) await this.#try();
    if (this.#isShown) this.#timer = setTimeout(() => this.#run(), this.#everyMs);
  }

  async #try() {
    try {
      await this.#work();
      this.problem.textContent = '';
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }
}
