// Requests, as they come: asks every second, keeps what was answered, and tells those who show it.

import { getRequests } from './api.js';
import { prepared } from './filter.js';

const EVERY_MS = 1000;
/** While another window is in front, so that requests sent from there are recorded; not for ever, since recording costs. */
const HIDDEN_EVERY_MS = 5000;
const HIDDEN_FOR_MS = 5 * 60_000;
const RETRY_AT_MOST_MS = 8000;
/** Most requests kept here. */
const MOST = 500;
/** Sidelight records for so long after it was asked. */
export const RECORDS_FOR_MS = 15_000;

/**
 * `state`: `starting`, `on`, `paused`, `asleep` (hidden for long) or `lost`. Tells of `change`.
 */
class Feed extends EventTarget {
  state = 'starting';
  /** Finished requests by id, the oldest first. */
  requests = new Map();
  live = [];
  missed = 0;
  capacity = 500;
  askedAt = 0;
  problem = '';
  #after = 0;
  /** Which process answers: another one begins to count anew. */
  #process = null;
  #timer = null;
  #failures = 0;
  #hiddenAt = 0;
  #isAsking = false;

  start() {
    document.addEventListener('visibilitychange', () => this.#seen());
    this.#hiddenAt = Date.now();
    this.#ask();
  }

  get isPaused() {
    return this.state === 'paused';
  }

  pause() {
    clearTimeout(this.#timer);
    this.#tell('paused');
  }

  resume() {
    this.#tell('starting');
    this.#ask();
  }

  /** Forgets what is shown; what comes later is shown. */
  clear() {
    this.requests.clear();
    this.missed = 0;
    this.#tell(this.state);
  }

  /** A request by its id, live or finished. */
  find(id) {
    return this.requests.get(id) ?? this.live.find((request) => request.id === id);
  }

  #seen() {
    if (document.hidden) this.#hiddenAt = Date.now();
    else if (this.state !== 'paused') this.#ask();
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    clearTimeout(this.#timer);
    try {
      this.#take(await getRequests(this.#after));
    } catch (error) {
      this.#lose(error);
    }
    this.#isAsking = false;
    this.#later();
  }

  #later() {
    if (this.state === 'paused') return;
    if (document.hidden && Date.now() - this.#hiddenAt > HIDDEN_FOR_MS) {
      this.#tell('asleep');
      return;
    }
    const soon = document.hidden ? HIDDEN_EVERY_MS : EVERY_MS;
    this.#timer = setTimeout(() => this.#ask(), Math.min(soon * 2 ** this.#failures, Math.max(soon, RETRY_AT_MOST_MS)));
  }

  #take(answer) {
    this.#failures = 0;
    this.askedAt = Date.now();
    // A pause that came while the answer was on its way: what it has is taken when it ends.
    if (this.state === 'paused') return;
    const isAnother = this.#process !== null && answer.process !== this.#process;
    this.#process = answer.process;
    if (answer.next < this.#after || isAnother) this.#startAnew();
    else this.#add(answer);
    this.#tell('on');
  }

  /** Its numbers begin again: it is another process. */
  #startAnew() {
    this.#after = 0;
    this.requests.clear();
    this.missed = 0;
  }

  #add(answer) {
    this.#after = answer.next;
    this.missed += answer.missed ?? 0;
    this.capacity = answer.capacity ?? this.capacity;
    this.live = answer.live.map((request) => prepared({ ...request, duration_us: request.age_us }, true));
    for (const request of answer.requests) this.requests.set(request.id, prepared(request, false));
    for (const id of this.requests.keys()) {
      if (this.requests.size <= MOST) break;
      this.requests.delete(id);
    }
  }

  #lose(error) {
    this.#failures += 1;
    this.problem = error.message;
    if (this.state !== 'paused') this.#tell('lost');
  }

  #tell(state) {
    this.state = state;
    this.dispatchEvent(new Event('change'));
  }
}

export const feed = new Feed();
