// The official JavaScript worker: serves an environment's queue until SIGTERM.
//
//   worker.mjs BASE_URL ENVIRONMENT ENVIRONMENT_KEY WORKDIR

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(`${process.cwd()}/`);
const { default: Anthropic } = await import(pathToFileURL(here.resolve("@anthropic-ai/sdk")).href.replace(/\.js$/, ".mjs"));

const [baseURL, environmentId, environmentKey, workdir] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: null, authToken: environmentKey });
const stop = new AbortController();
process.on("SIGTERM", () => stop.abort());
await client.beta.environments.work.worker({ environmentId, environmentKey, workdir, maxIdleMs: 1000, signal: stop.signal }).run();
