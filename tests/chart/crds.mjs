// Checks custom resources against the schemas of @kubernetes-models: node crds.mjs FOLDER-OF-NODE-MODULES <objects.json >verdicts.json
//
// Objects come as an array; verdicts are an array of arrays of messages. The validators there do not refuse unknown keys. Each is therefore given the object through
// proxies that note which keys are read: one that nobody has read is one that the schema does not know. (Where none of an object's keys are read, it is free form.)
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const modules = resolve(process.argv[2], "node_modules");
const groups = {
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
};

function watched(value, path, notes) {
  if (value === null || typeof value !== "object") return value;
  const note = { path, keys: Array.isArray(value) ? [] : Object.keys(value), read: new Set(), below: new Map() };
  notes.push(note);
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol" || !Object.hasOwn(target, key)) return target[key];
      note.read.add(key);
      if (!note.below.has(key)) note.below.set(key, watched(target[key], `${path}/${key}`, notes));
      return note.below.get(key);
    },
  });
}

async function verdict(object) {
  const group = groups[object.apiVersion];
  if (!group) return [`no schema for ${object.apiVersion} ${object.kind}`];
  const folder = `${modules}/${group}`;
  const model = (await import(pathToFileURL(`${folder}/index.js`)))[object.kind];
  if (!model) return [`no schema for ${object.apiVersion} ${object.kind}`];
  try {
    new model(object).validate();
  } catch (error) {
    return [String(error.message ?? error)];
  }
  const { validate } = await import(schemaOf(`${folder}/${object.kind}.js`));
  const notes = [];
  validate(watched(object, "", notes));
  return notes
    .filter((note) => note.read.size > 0)
    .flatMap((note) => note.keys.filter((key) => !note.read.has(key)).map((key) => `${note.path}/${key}: no such key`));
}

// The compiled schema that a model's file imports.
function schemaOf(file) {
  const from = readFileSync(file, "utf8").match(/from ?["']([^"']*_schemas\/[^"']+)["']/)?.[1];
  if (!from) throw new Error(`${file} imports no schema`);
  return pathToFileURL(resolve(dirname(file), from));
}

const objects = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await Promise.all(objects.map(verdict))));
