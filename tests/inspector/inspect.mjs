// Opens the inspector in a browser, sends requests, and looks at what it shows.
//
// INSPECTOR_URL  http://127.0.0.1:PORT/inspector/
// TARGET_URL     where requests are sent
// PATHS          paths for them, with commas between; the first leads to a backend and calls the host at least ten times
// SHOTS          folder for screenshots
// CHROMIUM       the browser; /usr/bin/chromium
// TOKEN          the admin token, if the listener asks for one

import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import http from 'node:http';
import { chromium } from 'playwright-core';

const INSPECTOR = needed('INSPECTOR_URL');
const TARGET = needed('TARGET_URL').replace(/\/$/, '');
const SHOTS = needed('SHOTS');
const PATHS = (process.env.PATHS ?? '/').split(',');
const TOKEN = process.env.TOKEN ?? '';
const PATIENCE_MS = 30_000;
const PAUSE_MS = 3500;
const MARKUP = '<img/src=x/onerror=window.hostile=1>';
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };

let passed = 0;
let failed = 0;

function needed(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} must be set`);
    process.exit(2);
  }
  return value;
}

/** One thing that must hold; the others are looked at all the same. */
async function check(name, work) {
  try {
    await work();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${String(error.message ?? error).split('\n').slice(0, 6).join('\n        ')}`);
  }
}

function must(holds, what) {
  if (!holds) throw new Error(what);
}

async function until(work, what) {
  const end = Date.now() + PATIENCE_MS;
  let last;
  while (Date.now() < end) {
    last = await work();
    if (last) return last;
    await sleep(50);
  }
  throw new Error(`${what}, not within ${PATIENCE_MS} ms (got ${JSON.stringify(last)})`);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/* Traffic */

let sent = 0;

/** A path that is different from all before, so that its row can be told from others. */
function marked(path) {
  sent += 1;
  const mark = `mark=${process.pid}-${sent}`;
  return [`${path}${path.includes('?') ? '&' : '?'}${mark}`, mark];
}

async function send(path, headers = {}) {
  const [target, mark] = marked(path);
  const answer = await fetch(TARGET + target, { headers, redirect: 'manual' });
  await answer.arrayBuffer();
  return mark;
}

/** With a path as it is; `fetch` would encode it. Resolves to the status. */
function sendRaw(path) {
  return new Promise((resolve, reject) => {
    const request = http.request(TARGET, { path }, (answer) => answer.resume().on('end', () => resolve(answer.statusCode)));
    request.on('error', reject);
    request.end();
  });
}

/* The page */

const problems = [];

async function opened(browser, options) {
  const context = await browser.newContext({ acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) problems.push(`console: ${message.text()} (${message.location().url})`); });
  page.on('pageerror', (error) => problems.push(`error: ${error.stack ?? error.message}`));
  page.on('dialog', (dialog) => problems.push(`dialog: ${dialog.message()}`));
  page.on('request', (request) => { if (!request.url().startsWith(new URL(INSPECTOR).origin) && !/^(data|blob):/.test(request.url())) problems.push(`request elsewhere: ${request.url()}`); });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  await page.goto(INSPECTOR);
  if (TOKEN) await giveToken(page);
  await page.waitForSelector('#feed[data-state=on]');
  return page;
}

async function giveToken(page) {
  await page.waitForSelector('#token[open]');
  problems.splice(0);
  await page.fill('#token-value', TOKEN);
  await page.press('#token-value', 'Enter');
}

const rowsOf = (page) => page.locator('#rows-all .row');
const rowWith = (page, text) => rowsOf(page).filter({ hasText: text }).first();
const waterfall = (page) => page.locator('.tl-rows > .tl-row:visible');
const isOpen = (page) => page.locator('#detail').isVisible();

async function tab(page, name) {
  await page.click(`#tab-${name}`);
  await page.waitForSelector(`#view-${name}:not([hidden])`);
}

async function section(page, name) {
  await page.click(`[data-section=${name}]`);
}

async function open(page, mark) {
  await rowWith(page, mark).click();
  await page.waitForSelector('#section .timeline, #section > *');
  await section(page, 'timeline');
}

async function filter(page, text) {
  await page.fill('#filter', text);
  await sleep(250);
}

/** Without the page itself being wider than the window. */
async function fits(page) {
  const [scroll, client] = await page.evaluate(() => [document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]);
  must(scroll <= client, `the page is ${scroll} px wide in a window of ${client} px`);
  const wide = await page.evaluate(() => [...document.querySelectorAll('.view:not([hidden]), .detail:not([hidden]), .detail-body')].filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.id || part.className));
  must(wide.length === 0, `wider than the window: ${wide.join(', ')}`);
}

async function saved(page, kind) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.click(`[data-export=${kind}]`)]);
  must(/\.json$/.test(file.suggestedFilename()), `it is called ${file.suggestedFilename()}`);
  return JSON.parse(readFileSync(await file.path(), 'utf8'));
}

/* What must hold */

async function checkList(page, marks) {
  await check('requests appear in the list', () => until(async () => {
    const texts = await rowsOf(page).allTextContents();
    return marks.every((mark) => texts.some((text) => text.includes(mark)));
  }, 'rows for all requests'));

  await check('a filter narrows the list', async () => {
    const before = await rowsOf(page).count();
    await filter(page, marks[0]);
    const after = await rowsOf(page).count();
    await filter(page, '');
    must(after === 1, `${after} rows of ${before}`);
  });

  await check('filters by status and by what is not there', async () => {
    const status = (await rowWith(page, marks[0]).locator('.status').textContent()).trim();
    await filter(page, `status:${status[0]}xx ${marks[0]}`);
    must(await rowsOf(page).count() === 1, 'status: takes it away');
    await filter(page, `-${marks[0]}`);
    must(await rowsOf(page).filter({ hasText: marks[0] }).count() === 0, '- leaves it there');
    await filter(page, 'slow:fast');
    must(await page.locator('#filter-problem').textContent() !== '', 'a wrong form is not told of');
    await filter(page, '');
  });
}

async function checkDetail(page, mark) {
  await check('a request opens, with its hostcalls', async () => {
    await open(page, mark);
    await until(async () => await waterfall(page).count() >= 10, 'ten rows in the waterfall');
    const names = await waterfall(page).locator('.tl-name').allTextContents();
    must(names.some((name) => name.startsWith('fastly_http_req.')), `no fastly_http_req. in ${names.slice(0, 5)}`);
    must(await page.locator('.tl-row.attempt').count() >= 1, 'no row of a backend');
    must(await page.locator('.tl-row.attempt .tl-bar').count() >= 2, 'no phases of a backend');
    must((await page.locator('.line-memory').getAttribute('d')).length > 5, 'no memory curve');
  });

  await check('rows tell everything under the pointer, and unfold', async () => {
    const row = page.locator('.tl-rows .tl-row.call').first();
    await row.hover();
    must((await page.locator('#tip').textContent()).includes('First argument'), 'no description');
    await row.locator('.tl-line').click();
    must(await row.locator('.tl-more').isVisible(), 'it does not unfold');
    await row.locator('.tl-line').click();
  });

  await check('the timeline zooms', async () => {
    const span = () => page.locator('.tl').evaluate((timeline) => Number(timeline.style.getPropertyValue('--span')));
    const whole = await span();
    await page.click('[aria-label="Zoom in"]');
    await until(async () => await span() < whole, 'a smaller span');
    await page.click('text=Fit');
    await until(async () => await span() === whole, 'the whole again');
  });

  await check('its sections have totals, headers, backends', async () => {
    await section(page, 'hostcalls');
    must(await page.locator('#section tbody tr').count() >= 3, 'no totals');
    await section(page, 'backends');
    must(await page.locator('#section article').count() >= 1, 'no backends');
    await section(page, 'cache');
    await section(page, 'headers');
    must(await page.locator('#section tbody tr').count() >= 2, 'no headers');
    await section(page, 'timeline');
  });

  await checkLink(page, mark);
}

async function checkLink(page, mark) {
  await check('a link leads to it', async () => {
    const shared = page.url();
    must(/#\/requests\/[\w-]{36}/.test(shared), shared);
    await page.goto('about:blank');
    await page.goto(shared);
    await until(() => page.locator('#detail-title').textContent().then((text) => text.includes(mark)), 'the request');
  });

  await check('the three exports are files of JSON', async () => {
    must(Array.isArray((await saved(page, 'otlp')).resourceSpans), 'OTLP has no resourceSpans');
    must(Array.isArray((await saved(page, 'chrome')).traceEvents), 'the Chrome trace has no traceEvents');
    must(Array.isArray((await saved(page, 'firefox')).threads), 'the Firefox profile has no threads');
  });
}

async function checkPause(page) {
  await check('pause stops, resume goes on', async () => {
    await page.click('#pause');
    const mark = await send(PATHS[0]);
    await sleep(PAUSE_MS);
    must(await rowsOf(page).filter({ hasText: mark }).count() === 0, 'a row came while paused');
    must((await page.locator('#notice').textContent()).includes('Recording'), 'it is not said that recording ends');
    await page.click('#pause');
    await until(() => rowsOf(page).filter({ hasText: mark }).count(), 'the row after it');
  });
}

async function checkKeys(page) {
  await check('keys move, open and close', async () => {
    if (await isOpen(page)) await page.click('#detail-close');
    await page.focus('#grid');
    const active = () => page.locator('#grid').getAttribute('aria-activedescendant');
    await page.keyboard.press('Home');
    const first = await active();
    await page.keyboard.press('ArrowDown');
    const second = await active();
    must(first && second && first !== second, `from ${first} to ${second}`);
    await page.keyboard.press('Enter');
    await until(() => isOpen(page), 'it opens');
    must(page.url().includes(second.replace('row-', '')), 'another one was opened');
    await page.keyboard.press('Escape');
    await until(async () => !(await isOpen(page)), 'it closes');
    must(await page.evaluate(() => document.activeElement.id) === 'grid', 'the focus is not in the list again');
  });

  await check('keys go through the rows of the timeline', async () => {
    await page.keyboard.press('Enter');
    await page.waitForSelector('.tl-line');
    await page.focus('.tl-line[tabindex="0"]');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('End');
    must(await page.locator('#tip').isVisible(), 'the focus does not tell of the row');
    await page.keyboard.press('Escape');
    must(await isOpen(page), 'the first Escape takes more than the description');
    await page.keyboard.press('Escape');
    await until(async () => !(await isOpen(page)), 'it closes');
  });
}

async function checkHostile(page) {
  await check('markup in a path is text', async () => {
    // Hosts may refuse such a path; then it comes encoded, and must be shown so.
    const status = await sendRaw(`/${MARKUP}`);
    const mark = await send(`/${MARKUP}`, { 'x-hostile': MARKUP });
    await until(() => rowsOf(page).filter({ hasText: mark }).count(), 'its row');
    const text = await rowWith(page, mark).locator('.path').textContent();
    must(text.includes('%3Cimg') || text.includes('<img'), text);
    if (status < 400) await until(() => rowsOf(page).filter({ hasText: MARKUP }).count(), `the path as it was sent (status ${status})`);
    await open(page, mark);
    await section(page, 'headers');
    must((await page.locator('#section').textContent()).includes(MARKUP), 'the header is not there');
    await page.click('#detail-close');
  });

  await check('markup in every field is text', async () => {
    const hostile = await rewritten(page);
    await page.reload();
    await until(() => rowsOf(page).filter({ hasText: MARKUP }).count(), 'hostile rows');
    for (const name of ['requests', 'hostcalls', 'services']) {
      await tab(page, name);
      await until(() => page.locator(`#view-${name}`).textContent().then((text) => text.includes(MARKUP)), `hostile ${name}`);
    }
    await tab(page, 'requests');
    await rowsOf(page).filter({ hasText: MARKUP }).first().click();
    for (const name of ['headers', 'cache', 'backends', 'hostcalls', 'timeline']) await section(page, name);
    must(await waterfall(page).count() > 0, 'no rows of hostcalls');
    must((await page.locator('#detail').textContent()).includes(MARKUP), 'the detail does not show it');
    const made = await page.evaluate(() => document.querySelectorAll('img, script:not([src])').length);
    must(made === 0 && await page.evaluate(() => window.hostile === undefined), 'markup was taken for markup');
    await page.click('#detail-close');
    await hostile.end();
  });
}

/** Puts markup into every text that the server answers. */
async function rewritten(page) {
  const spoil = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => spoil(item, key));
    if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, spoil(item, name)]));
    return typeof value === 'string' && !['id', 'at'].includes(key) ? `${value}${MARKUP}` : value;
  };
  const handle = async (handled) => {
    const answer = await handled.fetch();
    const spoiled = answer.ok() ? JSON.stringify(spoil(await answer.json(), '')) : await answer.text();
    await handled.fulfill({ response: answer, body: spoiled });
  };
  await page.route('**/inspect/**', handle);
  return { end: () => page.unrouteAll({ behavior: 'ignoreErrors' }) };
}

async function checkOtherViews(page) {
  await check('the view of hostcalls has counts', async () => {
    await tab(page, 'hostcalls');
    await until(() => page.locator('#view-hostcalls tbody tr').count(), 'rows');
    const counts = await page.locator('#view-hostcalls tbody td:nth-child(2)').allTextContents();
    must(counts.every((text) => /^[\d,]+$/.test(text)), counts.join(' '));
    must((await page.locator('#view-hostcalls').textContent()).includes('fastly_http_req.'), 'fastly_http_req is not there');
  });

  await check('the view of services has a service and its backends', async () => {
    await tab(page, 'services');
    await until(() => page.locator('#view-services .service').count(), 'a service');
    await until(() => page.locator('#view-services .service tbody tr').count(), 'a backend');
  });

  await check('the view of profiles offers the services', async () => {
    await tab(page, 'profile');
    await until(() => page.locator('#profile-service option').count(), 'a service to choose');
    must((await page.locator('#view-profile').textContent()).includes('profiler.firefox.com'), 'it does not say where to load it');
  });
  await tab(page, 'requests');
}

async function checkRest(page) {
  await check('the policy was not violated', async () => {
    const violations = await page.evaluate(() => window.violations);
    must(violations.length === 0, violations.join('; '));
  });
}

/* Screenshots */

async function shoot(browser, mark, size, scheme) {
  const name = `${size.width}-${scheme}`;
  const page = await opened(browser, { viewport: size, colorScheme: scheme });
  const shot = (what) => page.screenshot({ path: join(SHOTS, `${what}-${name}.png`) });
  await check(`${name}: it fits, and screenshots`, async () => {
    await until(() => rowsOf(page).filter({ hasText: mark }).count(), 'the row');
    await fits(page);
    await shot('list');
    await open(page, mark);
    for (const what of ['timeline', 'hostcalls', 'backends', 'cache', 'headers']) {
      await section(page, what);
      await sleep(100);
      await fits(page);
      await shot(what === 'timeline' ? 'detail' : `detail-${what}`);
    }
    for (const what of ['hostcalls', 'services', 'profile']) {
      await tab(page, what);
      await page.waitForSelector(`#view-${what} .card, #view-${what} tbody tr`);
      await sleep(150);
      await fits(page);
      await shot(what);
    }
  });
  await checkRest(page);
  await page.context().close();
}

async function all(browser) {
  const page = await opened(browser, { viewport: DESKTOP });
  const marks = [];
  for (const path of PATHS) marks.push(await send(path));
  await checkList(page, marks);
  await checkDetail(page, marks[0]);
  await checkPause(page);
  await checkKeys(page);
  await checkOtherViews(page);
  await checkHostile(page);
  await checkRest(page);
  await page.context().close();
  const mark = await sendWatched(browser);
  for (const size of [DESKTOP, PHONE]) {
    for (const scheme of ['light', 'dark']) await shoot(browser, mark, size, scheme);
  }
  await check('no errors, and nothing asked for elsewhere', () => must(problems.length === 0, problems.join('\n')));
}

/** A request that is sent while a page looks, so that it is kept. */
async function sendWatched(browser) {
  const page = await opened(browser, {});
  for (const path of PATHS.slice(1)) await send(path);
  const mark = await send(PATHS[0]);
  await page.context().close();
  return mark;
}

mkdirSync(SHOTS, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  await all(browser);
} catch (error) {
  failed += 1;
  console.log(`FAILED  ${error.stack}`);
} finally {
  await browser.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
