// Calls every method of every resource that the official JavaScript SDK has.
//
//   every_resource.mjs BASE_URL API_KEY ENVIRONMENT IDLE_ENVIRONMENT IDLE_ENVIRONMENT_KEY CA_PEM
//
// Nobody else works for the idle environment. Prints one JSON line: the version, what was called, what the SDK has and was not called.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const here = createRequire(`${process.cwd()}/`);
const load = async (name) => import(pathToFileURL(here.resolve(name)).href.replace(/\.js$/, ".mjs"));
const { default: Anthropic, toFile } = await load("@anthropic-ai/sdk");
const { accumulateManagedAgentsEvent } = await load("@anthropic-ai/sdk/lib/sessions/accumulate");
const { VERSION } = await load("@anthropic-ai/sdk/version");

const [baseURL, apiKey, environment, idle, idleKey, caPem] = process.argv.slice(2);
const RESOURCES = ["agents", "deploymentRuns", "deployments", "environments", "files", "memoryStores", "models", "sessions", "skills",
  "tunnels", "vaults"];
// Helpers around the calls, not calls: the workers' journeys drive them.
const HELPERS = new Set(["poller", "worker", "toolRunner"]);

const called = new Set();

// A resource that keeps which of its methods were called.
function recording(real, path) {
  return new Proxy(real, {
    get(target, name) {
      const found = target[name];
      if (typeof name === "symbol" || name.startsWith("_")) return found;
      const at = path ? `${path}.${name}` : name;
      if (typeof found !== "function") return recording(found, at);
      called.add(at);
      return found.bind(target);
    },
  });
}

function methods(resource, path) {
  const own = Object.getOwnPropertyNames(Object.getPrototypeOf(resource))
    .filter((name) => name !== "constructor" && !name.startsWith("_") && !HELPERS.has(name) && typeof resource[name] === "function");
  const below = Object.entries(resource).filter(([name, value]) => name !== "_client" && value && typeof value === "object");
  return [...own.map((name) => `${path}.${name}`), ...below.flatMap(([name, value]) => methods(value, `${path}.${name}`))];
}

const says = (...turns) => [{ type: "user.message", content: [{ type: "text", text: `rehearse: ${JSON.stringify(turns)}` }] }];

async function all(pages) {
  const found = [];
  for await (const one of pages) found.push(one);
  return found;
}

async function has(id, pages) {
  assert((await all(pages)).some((one) => one.id === id), `${id} in a list`);
}

async function agents(beta) {
  const made = await beta.agents.create({ name: "every", model: "rehearsal-1", tools: [{ type: "agent_toolset_20260401" }] });
  assert.deepEqual(await beta.agents.retrieve(made.id), made);
  const changed = await beta.agents.update(made.id, { version: made.version, description: "changed" });
  assert.deepEqual((await all(beta.agents.versions.list(made.id))).map((one) => one.version), [changed.version, made.version]);
  const other = await beta.agents.create({ name: "gone", model: "rehearsal-1" });
  await has(made.id, beta.agents.list({ limit: 1 }));
  assert((await beta.agents.archive(other.id)).archived_at);
  return made.id;
}

async function environments(beta) {
  const config = { type: "self_hosted" };
  const made = await beta.environments.create({ name: `every ${randomUUID()}`, config });
  assert.deepEqual(await beta.environments.retrieve(made.id), made);
  assert.equal((await beta.environments.update(made.id, { description: "changed" })).description, "changed");
  await has(made.id, beta.environments.list({ limit: 1 }));
  assert((await beta.environments.archive(made.id)).archived_at);
  const gone = await beta.environments.create({ name: `gone ${randomUUID()}`, config });
  assert.equal((await beta.environments.delete(gone.id)).id, gone.id);
}

async function queue(beta, worker, agent) {
  const session = await beta.sessions.create({ agent, environment_id: idle });
  await beta.sessions.events.send(session.id, { events: says({ text: "nothing to do" }) });
  let item = null;
  while (item?.data.id !== session.id) item = await worker.environments.work.poll(idle, { block_ms: 900 });
  const at = { environment_id: idle };
  assert((await worker.environments.work.ack(item.id, at)).state);
  assert((await worker.environments.work.heartbeat(item.id, { ...at, expected_last_heartbeat: "NO_HEARTBEAT" })).lease_extended);
  assert.equal((await beta.environments.work.retrieve(item.id, at)).id, item.id);
  assert.deepEqual((await beta.environments.work.update(item.id, { ...at, metadata: { k: "v" } })).metadata, { k: "v" });
  await has(item.id, beta.environments.work.list(idle, { limit: 1 }));
  assert((await beta.environments.work.stats(idle)).depth >= 0);
  await worker.environments.work.stop(item.id, { ...at, force: true });
}

async function sessions(beta, agent, store) {
  const file = await beta.files.upload({ file: await toFile(Buffer.from("notes"), "notes.txt", { type: "text/plain" }) });
  const made = await beta.sessions.create({
    agent, environment_id: environment, title: "every", resources: [
      { type: "memory_store", memory_store_id: store },
      { type: "github_repository", url: "https://git.every.example/team/every", authorization_token: "token-of-every-1f0c9e7b3a52" },
    ],
  });
  assert.equal((await beta.sessions.retrieve(made.id)).title, "every");
  assert.equal((await beta.sessions.update(made.id, { title: "changed", metadata: { k: "v" } })).title, "changed");
  await has(made.id, beta.sessions.list({ limit: 1 }));
  const added = await beta.sessions.resources.add(made.id, { type: "file", file_id: file.id });
  const at = { session_id: made.id };
  assert.equal((await beta.sessions.resources.retrieve(added.id, at)).id, added.id);
  const listed = await all(beta.sessions.resources.list(made.id, { limit: 1 }));
  assert.deepEqual(listed.map((one) => one.type).sort(), ["file", "github_repository", "memory_store"]);
  const repository = listed.find((one) => one.type === "github_repository");
  const rotated = await beta.sessions.resources.update(repository.id, { ...at, authorization_token: "token-of-every-7d25b8c4e913" });
  assert.deepEqual([rotated.id, rotated.mount_path], [repository.id, "/workspace/every"]);
  await turn(beta, made.id);
  await threads(beta, made.id);
  await beta.sessions.resources.delete(added.id, at);
  await beta.files.delete(file.id);
  await beta.sessions.archive(made.id);
  assert.equal((await beta.sessions.delete(made.id)).id, made.id);
  await otherThreads(beta);
}

// A turn over the stream, with previews folded by the SDK's own helper.
async function turn(beta, session) {
  const stream = await beta.sessions.events.stream(session, { event_deltas: ["agent.message"] });
  await beta.sessions.events.send(session, { events: says({ text: "several words to preview" }) });
  const kinds = [];
  let message;
  for await (const event of stream) {
    kinds.push(event.type);
    message = accumulateManagedAgentsEvent(message, event);
    if (event.type === "session.status_idle") break;
  }
  assert.equal(message.content[0].text, "several words to preview");
  assert(kinds.includes("event_delta"));
  const named = kinds.filter((kind) => kind !== "event_start" && kind !== "event_delta");
  const listed = (await all(beta.sessions.events.list(session, { limit: 2 }))).map((event) => event.type);
  assert.deepEqual(listed.slice(-named.length), named);
}

async function threads(beta, session) {
  const [primary] = await all(beta.sessions.threads.list(session));
  const at = { session_id: session };
  assert.equal((await beta.sessions.threads.retrieve(primary.id, at)).id, primary.id);
  const ids = async (pages) => (await all(pages)).map((event) => event.id);
  assert.deepEqual(await ids(beta.sessions.threads.events.list(primary.id, at)), await ids(beta.sessions.events.list(session)));
  const stream = await beta.sessions.threads.events.stream(primary.id, at);
  await beta.sessions.events.send(session, { events: says({ text: "again" }) });
  for await (const event of stream) if (event.type === "session.thread_status_idle") break;
}

/** An agent that works for another, and the end of its thread. */
async function otherThreads(beta) {
  const scout = await beta.agents.create({ name: "scout", model: "rehearsal-1" });
  const multiagent = { type: "coordinator", agents: [scout.id] };
  const chief = await beta.agents.create({ name: "chief", model: "rehearsal-1", multiagent });
  const session = (await beta.sessions.create({ agent: chief.id, environment_id: environment })).id;
  const message = says({ text: "found" })[0].content[0].text;
  const start = { tool_uses: [{ name: "start_agent", input: { agent: "scout", message } }] };
  const stream = await beta.sessions.events.stream(session);
  await beta.sessions.events.send(session, { events: says(start, { text: "waiting" }, { text: "heard" }) });
  for await (const event of stream) if (event.type === "session.status_idle") break;
  const [primary, child] = await all(beta.sessions.threads.list(session));
  assert.equal(child.parent_thread_id, primary.id);
  assert((await beta.sessions.threads.archive(child.id, { session_id: session })).archived_at);
}

async function vaults(beta) {
  const made = await beta.vaults.create({ display_name: "every" });
  assert.deepEqual(await beta.vaults.retrieve(made.id), made);
  assert.equal((await beta.vaults.update(made.id, { display_name: "changed" })).display_name, "changed");
  await has(made.id, beta.vaults.list({ limit: 1 }));
  const url = `https://every-${randomUUID()}.example/mcp`, { credentials } = beta.vaults, at = { vault_id: made.id };
  const one = await credentials.create(made.id, { auth: { type: "static_bearer", mcp_server_url: url, token: "every-bearer-token" } });
  assert.equal((await credentials.retrieve(one.id, at)).id, one.id);
  assert.equal((await credentials.update(one.id, { ...at, display_name: "changed" })).display_name, "changed");
  await has(one.id, credentials.list(made.id));
  assert((await credentials.archive(one.id, at)).archived_at);
  assert.equal((await credentials.delete(one.id, at)).id, one.id);
  const two = await credentials.create(made.id, { auth: { type: "mcp_oauth", mcp_server_url: url, access_token: "every-access-token" } });
  assert((await credentials.mcpOAuthValidate(two.id, at)).status);
  assert((await beta.vaults.archive(made.id)).archived_at);
  assert.equal((await beta.vaults.delete(made.id)).id, made.id);
}

async function files(beta) {
  const made = await beta.files.upload({ file: await toFile(Buffer.from("every byte"), "every.txt", { type: "text/plain" }) });
  assert.equal((await beta.files.retrieveMetadata(made.id)).filename, "every.txt");
  const newer = await beta.files.upload({ file: await toFile(Buffer.from("newer"), "newer.txt", { type: "text/plain" }) });
  await has(made.id, beta.files.list({ limit: 1 }));
  await beta.files.delete(newer.id);
  assert.equal((await beta.files.delete(made.id)).id, made.id);
}

// What a session writes for its owner comes back as a file that can be fetched.
async function outputs(beta, agent) {
  const session = await beta.sessions.create({ agent, environment_id: environment });
  const write = { name: "bash", input: { command: "mkdir -p /mnt/session/outputs; echo made > /mnt/session/outputs/made.txt" } };
  const stream = await beta.sessions.events.stream(session.id);
  await beta.sessions.events.send(session.id, { events: says({ tool_uses: [write] }, { text: "done" }) });
  for await (const event of stream) if (event.type === "session.status_idle") break;
  let made;
  while (!made) made = (await all(beta.files.list({ scope_id: session.id }))).find((file) => file.filename.endsWith("made.txt"));
  assert.equal(await (await beta.files.download(made.id)).text(), "made\n");
}

async function skills(beta) {
  const slug = `every-${randomUUID()}`;
  const file = () => toFile(Buffer.from(`---\nname: ${slug}\ndescription: Everything.\n---\nRead.\n`), "every/SKILL.md");
  const made = await beta.skills.create({ files: [await file()] });
  assert.equal((await beta.skills.retrieve(made.id)).id, made.id);
  await has(made.id, beta.skills.list({ limit: 1 }));
  const second = await beta.skills.versions.create(made.id, { files: [await file()] }), at = { skill_id: made.id };
  assert.equal((await all(beta.skills.versions.list(made.id, { limit: 1 }))).length, 2);
  const name = second.version ?? second.id;
  assert.deepEqual(await beta.skills.versions.retrieve(name, at), second);
  assert((await (await beta.skills.versions.download(name, at)).arrayBuffer()).byteLength > 0);
  assert.equal((await beta.skills.versions.delete(name, at)).id, name);
  assert.equal((await beta.skills.delete(made.id)).id, made.id);
}

async function memory(beta) {
  const stores = beta.memoryStores, { memories, memoryVersions } = stores;
  const made = await stores.create({ name: `every ${randomUUID()}` }), at = { memory_store_id: made.id };
  assert.equal((await stores.retrieve(made.id)).id, made.id);
  assert.equal((await stores.update(made.id, { description: "changed" })).description, "changed");
  await has(made.id, stores.list({ limit: 1 }));
  const one = await memories.create(made.id, { path: "/a.md", content: "first" });
  assert.equal((await memories.retrieve(one.id, { ...at, view: "full" })).content, "first");
  await memories.update(one.id, { ...at, content: "second" });
  await has(one.id, memories.list(made.id));
  const oldest = (await all(memoryVersions.list(made.id, { memory_id: one.id, limit: 1 }))).at(-1);
  assert.equal((await memoryVersions.retrieve(oldest.id, at)).id, oldest.id);
  assert((await memoryVersions.redact(oldest.id, at)).redacted_at);
  assert.equal((await memories.delete(one.id, at)).id, one.id);
  const gone = await stores.create({ name: `gone ${randomUUID()}` });
  assert((await stores.archive(gone.id)).archived_at);
  assert.equal((await stores.delete(gone.id)).id, gone.id);
  return made.id;
}

async function deployments(beta, agent) {
  const made = await beta.deployments.create({ agent, environment_id: environment, name: "every", initial_events: says({ text: "done" }) });
  assert.equal((await beta.deployments.retrieve(made.id)).id, made.id);
  assert.equal((await beta.deployments.update(made.id, { name: "changed" })).name, "changed");
  await has(made.id, beta.deployments.list({ limit: 1 }));
  assert.equal((await beta.deployments.pause(made.id)).status, "paused");
  assert.equal((await beta.deployments.unpause(made.id)).status, "active");
  const run = await beta.deployments.run(made.id);
  assert.equal((await beta.deploymentRuns.retrieve(run.id)).id, run.id);
  await has(run.id, beta.deploymentRuns.list({ deployment_id: made.id }));
  assert((await beta.deployments.archive(made.id)).archived_at);
}

async function tunnels(beta) {
  const made = await beta.tunnels.create({ display_name: "every" }), at = { tunnel_id: made.id };
  assert.equal((await beta.tunnels.retrieve(made.id)).id, made.id);
  await has(made.id, beta.tunnels.list({ limit: 1 }));
  const first = await beta.tunnels.revealToken(made.id, {});
  assert.notEqual((await beta.tunnels.rotateToken(made.id, {})).tunnel_token, first.tunnel_token);
  const trusted = await beta.tunnels.certificates.create(made.id, { ca_certificate_pem: readFileSync(caPem, "utf8") });
  assert.equal((await beta.tunnels.certificates.retrieve(trusted.id, at)).id, trusted.id);
  await has(trusted.id, beta.tunnels.certificates.list(made.id));
  assert((await beta.tunnels.certificates.archive(trusted.id, at)).archived_at);
  assert((await beta.tunnels.archive(made.id)).archived_at);
}

async function models(beta) {
  const [first] = await all(beta.models.list({ limit: 1 }));
  assert.equal((await beta.models.retrieve(first.id)).id, first.id);
}

const client = (credential) => new Anthropic({ baseURL, maxRetries: 0, timeout: 60_000, apiKey: null, authToken: null, ...credential }).beta;
const real = client({ apiKey });
const beta = recording(real, ""), worker = recording(client({ authToken: idleKey }), "");
const agent = await agents(beta), store = await memory(beta);
await environments(beta);
await queue(beta, worker, agent);
await sessions(beta, agent, store);
await outputs(beta, agent);
await vaults(beta);
await files(beta);
await skills(beta);
await deployments(beta, agent);
await tunnels(beta);
await models(beta);
const missing = RESOURCES.flatMap((name) => methods(real[name], name)).filter((name) => !called.has(name));
console.log(JSON.stringify({ version: VERSION, called: [...called].sort(), not_called: missing.sort() }));
