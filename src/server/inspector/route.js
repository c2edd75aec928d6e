// What is shown, as the address has it after its `#`: `/requests/ID/SECTION?q=FILTER`, `/hostcalls`, `/services`, `/profile`.

export const VIEWS = ['requests', 'hostcalls', 'services', 'profile'];

const unescaped = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

/** What the address says. */
export function route() {
  const [path, search = ''] = location.hash.slice(1).split(/\?(.*)/s);
  const [view, id, section] = path.split('/').filter(Boolean).map(unescaped);
  return {
    view: VIEWS.includes(view) ? view : 'requests',
    id: view === 'requests' ? id ?? null : null,
    section: section ?? null,
    query: new URLSearchParams(search).get('q') ?? '',
  };
}

function hashOf({ view, id, section, query }) {
  const parts = [view];
  if (view === 'requests' && id) parts.push(id, ...(section ? [section] : []));
  const search = view === 'requests' && query ? `?${new URLSearchParams({ q: query })}` : '';
  return `#/${parts.map(encodeURIComponent).join('/')}${search}`;
}

/** A link to a request. */
export const requestHash = (id) => hashOf({ ...route(), view: 'requests', id });

/** Goes to another place; listeners of `hashchange` show it. */
export function go(to, { replace = false } = {}) {
  const hash = hashOf(to);
  if (hash === location.hash) return;
  if (replace) history.replaceState(null, '', hash);
  else history.pushState(null, '', hash);
  dispatchEvent(new Event('hashchange'));
}
