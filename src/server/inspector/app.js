// The inspector: tabs, colours, the line on top. Views are in modules of their own.

import { getStatus } from './api.js';
import { feed } from './feed.js';
import { hideTip } from './tip.js';
import { VIEWS, route } from './route.js';
import * as hostcalls from './hostcalls.js';
import * as profile from './profile.js';
import * as requests from './requests.js';
import * as services from './services.js';
import { byId, setText } from './dom.js';

const STATUS_EVERY_MS = 15_000;
const NO_WORK = () => {};
const views = { requests, hostcalls, services, profile };
let shown = null;

function showRoute() {
  hideTip();
  const place = route();
  if (shown !== place.view) changeView(place.view);
  views[place.view].show(place);
}

function changeView(view) {
  (views[shown]?.hide ?? NO_WORK)();
  for (const name of VIEWS) {
    const isIt = name === view;
    byId(`view-${name}`).hidden = !isIt;
    byId(`tab-${name}`).setAttribute('aria-selected', String(isIt));
    byId(`tab-${name}`).tabIndex = isIt ? 0 : -1;
  }
  document.title = `${byId(`tab-${view}`).textContent} – Sidelight inspector`;
  shown = view;
}

/** Arrows go from tab to tab. */
function tabKey(event) {
  const places = { ArrowRight: 1, ArrowLeft: -1 };
  if (!Object.hasOwn(places, event.key)) return;
  event.preventDefault();
  const next = VIEWS[(VIEWS.indexOf(route().view) + places[event.key] + VIEWS.length) % VIEWS.length];
  location.hash = `#/${next}`;
  byId(`tab-${next}`).focus();
}

/* Colours */

const THEMES = { system: 'Colours: system', light: 'Colours: light', dark: 'Colours: dark' };

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? 'system') + 1) % names.length];
  if (next === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('sidelight-theme', next);
  } catch {
    // Then it is forgotten with the page.
  }
  tellTheme();
}

function tellTheme() {
  const theme = document.documentElement.dataset.theme ?? 'system';
  setText(byId('theme'), { system: '◐', light: '☀', dark: '☾' }[theme]);
  byId('theme').title = THEMES[theme];
  byId('theme').setAttribute('aria-label', THEMES[theme]);
}

/* The line on top */

async function tellStatus() {
  if (!document.hidden && !feed.isPaused) {
    try {
      const { version, generation } = await getStatus();
      const parts = [version && `v${version}`, generation !== undefined && `generation ${generation}`];
      setText(byId('version'), parts.filter(Boolean).join(', '));
    } catch {
      // The feed says that there is no connection.
    }
  }
  setTimeout(tellStatus, STATUS_EVERY_MS);
}

function start() {
  tellTheme();
  for (const view of Object.values(views)) view.start();
  for (const tab of document.querySelectorAll('.tabs [role=tab]')) tab.addEventListener('keydown', tabKey);
  byId('theme').addEventListener('click', nextTheme);
  byId('skip').addEventListener('click', (event) => {
    event.preventDefault();
    (shown === 'requests' ? byId('grid') : byId('main')).focus();
  });
  addEventListener('hashchange', showRoute);
  addEventListener('popstate', showRoute);
  showRoute();
  feed.start();
  tellStatus();
}

start();
