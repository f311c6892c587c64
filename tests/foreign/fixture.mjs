// The server that the conformance suite expects, on the MCP project's own SDK: all its tools, resources and prompts.
// Started with the directory that holds node_modules; prints {"url": ...} when it listens, on loopback.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.argv[2], "package.json"));
const { Server } = require("@modelcontextprotocol/sdk/server/index.js");
const { StreamableHTTPServerTransport } = require("@modelcontextprotocol/sdk/server/streamableHttp.js");
const wire = require("@modelcontextprotocol/sdk/types.js");

const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
const WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=";

const text = (words) => ({ type: "text", text: words });
const image = { type: "image", data: PNG, mimeType: "image/png" };
const resource = (uri, mimeType, words) => ({ type: "resource", resource: { uri, mimeType, text: words } });
const pause = () => new Promise((done) => setTimeout(done, 50));
const strings = (...names) => ({
  type: "object",
  properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
  required: names,
});

const DEFAULTS = {
  type: "object",
  properties: {
    name: { type: "string", default: "John Doe" },
    age: { type: "integer", default: 30 },
    score: { type: "number", default: 95.5 },
    status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
    verified: { type: "boolean", default: true },
  },
  required: [],
};
const titled = (first, word) => [1, 2, 3].map((n) => ({ const: `value${n}`, title: `${word[n - 1]} ${first}` }));
const ORDER = ["First", "Second", "Third"];
const options = { type: "string", enum: ["option1", "option2", "option3"] };
const ENUMS = {
  type: "object",
  properties: {
    untitledSingle: options,
    titledSingle: { type: "string", oneOf: titled("Option", ORDER) },
    legacyEnum: { type: "string", enum: ["opt1", "opt2", "opt3"], enumNames: ["Option One", "Option Two", "Option Three"] },
    untitledMulti: { type: "array", items: options },
    titledMulti: { type: "array", items: { anyOf: titled("Choice", ORDER) } },
  },
  required: [],
};

async function asked(extra, message, requestedSchema) {
  const params = { message, requestedSchema };
  const { action, content } = await extra.sendRequest({ method: "elicitation/create", params }, wire.ElicitResultSchema);
  return `action=${action}, content=${JSON.stringify(content ?? {})}`;
}

// name: [description, input schema, (arguments, extra) -> content]
const TOOLS = {
  test_simple_text: ["Text.", strings(), () => [text("This is a simple text response for testing.")]],
  test_image_content: ["An image.", strings(), () => [image]],
  test_audio_content: ["A sound.", strings(), () => [{ type: "audio", data: WAV, mimeType: "audio/wav" }]],
  test_embedded_resource: ["A resource.", strings(), () => [
    resource("test://embedded-resource", "text/plain", "This is an embedded resource content."),
  ]],
  test_multiple_content_types: ["Text, image and resource.", strings(), () => [
    text("Multiple content types test:"),
    image,
    resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
  ]],
  test_tool_with_logging: ["Logs while it runs.", strings(), async (_, extra) => {
    for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
      await extra.sendNotification({ method: "notifications/message", params: { level: "info", data } });
      await pause();
    }
    return [text("logged")];
  }],
  test_tool_with_progress: ["Says how far it is.", strings(), async (_, extra) => {
    const progressToken = extra._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      const params = { progressToken, progress, total: 100 };
      if (progressToken !== undefined) await extra.sendNotification({ method: "notifications/progress", params });
      await pause();
    }
    return [text(String(progressToken))];
  }],
  test_error_handling: ["Fails.", strings(), () => {
    throw new Error("This tool intentionally returns an error for testing");
  }],
  test_sampling: ["Asks the client's model.", strings("prompt"), async ({ prompt }, extra) => {
    const params = { messages: [{ role: "user", content: text(prompt) }], maxTokens: 100 };
    const said = await extra.sendRequest({ method: "sampling/createMessage", params }, wire.CreateMessageResultSchema);
    return [text(`LLM response: ${said.content.text}`)];
  }],
  test_elicitation: ["Asks the user.", strings("message"), async ({ message }, extra) => [
    text(`User response: ${await asked(extra, message, strings("username", "email"))}`),
  ]],
  test_elicitation_sep1034_defaults: ["Asks with defaults.", strings(), async (_, extra) => [
    text(`Elicitation completed: ${await asked(extra, "Please review", DEFAULTS)}`),
  ]],
  test_elicitation_sep1330_enums: ["Asks with choices.", strings(), async (_, extra) => [
    text(`Elicitation completed: ${await asked(extra, "Please choose", ENUMS)}`),
  ]],
  test_reconnection: ["Ends its stream before the answer, to be asked for it again.", strings(), async (_, extra) => {
    extra.closeSSEStream?.();
    await pause();
    return [text("after the stream's end")];
  }],
  json_schema_2020_12_tool: ["A schema with definitions.", {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    type: "object",
    $defs: { address: { type: "object", properties: { street: { type: "string" }, city: { type: "string" } } } },
    properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" } },
    additionalProperties: false,
  }, (given) => [text(JSON.stringify(given))]],
};

// uri: [mime type, what it holds]
const RESOURCES = {
  "test://static-text": ["text/plain", { text: "This is the content of the static text resource." }],
  "test://static-binary": ["image/png", { blob: PNG }],
  "test://watched-resource": ["text/plain", { text: "Watched." }],
};

// name: [arguments, (arguments) -> contents]
const PROMPTS = {
  test_simple_prompt: [[], () => [text("This is a simple prompt for testing.")]],
  test_prompt_with_arguments: [["arg1", "arg2"], ({ arg1, arg2 }) => [
    text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`),
  ]],
  test_prompt_with_embedded_resource: [["resourceUri"], ({ resourceUri }) => [
    resource(resourceUri, "text/plain", "Embedded resource content for testing."),
    text("Please process the embedded resource above."),
  ]],
  test_prompt_with_image: [[], () => [image, text("Please analyze the image above.")]],
};

function fixture() {
  const capabilities = { tools: {}, resources: { subscribe: true }, prompts: {}, logging: {}, completions: {} };
  const server = new Server({ name: "fixture", version: "1.0.0" }, { capabilities });
  const on = (schema, answer) => server.setRequestHandler(schema, ({ params }, extra) => answer(params ?? {}, extra));
  const unknown = (what) => new wire.McpError(wire.ErrorCode.InvalidParams, `${what} not found`);

  on(wire.ListToolsRequestSchema, () => ({
    tools: Object.entries(TOOLS).map(([name, [description, inputSchema]]) => ({ name, description, inputSchema })),
  }));
  on(wire.CallToolRequestSchema, async ({ name, arguments: given }, extra) => {
    if (!TOOLS[name]) throw unknown(`Tool ${name}`);
    try {
      return { content: await TOOLS[name][2](given ?? {}, extra) };
    } catch (error) {
      return { isError: true, content: [text(error.message)] };
    }
  });
  on(wire.ListResourcesRequestSchema, () => ({
    resources: Object.entries(RESOURCES).map(([uri, [mimeType]]) => ({ uri, name: uri, description: uri, mimeType })),
  }));
  on(wire.ReadResourceRequestSchema, ({ uri }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    const made = { id, templateTest: true, data: `Data for ID: ${id}` };
    const [mimeType, held] = id ? ["application/json", { text: JSON.stringify(made) }] : RESOURCES[uri] ?? [];
    if (!held) throw unknown(`Resource ${uri}`);
    return { contents: [{ uri, mimeType, ...held }] };
  });
  on(wire.ListResourceTemplatesRequestSchema, () => ({
    resourceTemplates: [{ uriTemplate: "test://template/{id}/data", name: "template", mimeType: "application/json" }],
  }));
  on(wire.SubscribeRequestSchema, () => ({}));
  on(wire.UnsubscribeRequestSchema, () => ({}));
  on(wire.ListPromptsRequestSchema, () => ({
    prompts: Object.entries(PROMPTS).map(([name, [wanted]]) => ({
      name,
      description: name,
      arguments: wanted.map((argument) => ({ name: argument, description: argument, required: true })),
    })),
  }));
  on(wire.GetPromptRequestSchema, ({ name, arguments: given }) => {
    if (!PROMPTS[name]) throw unknown(`Prompt ${name}`);
    return { messages: PROMPTS[name][1](given ?? {}).map((content) => ({ role: "user", content })) };
  });
  on(wire.CompleteRequestSchema, ({ argument }) => {
    const values = ["paris", "park", "party"].filter((word) => word.startsWith(argument.value));
    return { completion: { values, total: values.length, hasMore: false } };
  });
  on(wire.SetLevelRequestSchema, () => ({}));
  return server;
}

/** Events of streams, so that a client may come back for what it missed. */
function memory() {
  const events = [];
  return {
    async storeEvent(stream, message) {
      events.push({ id: randomUUID(), stream, message });
      return events.at(-1).id;
    },
    async getStreamIdForEventId(id) {
      return events.find((event) => event.id === id)?.stream;
    },
    async replayEventsAfter(id, { send }) {
      const from = events.findIndex((event) => event.id === id);
      const stream = events[from]?.stream;
      for (const event of events.slice(from + 1).filter((event) => event.stream === stream && event.message.jsonrpc)) {
        await send(event.id, event.message);
      }
      return stream;
    },
  };
}

const sessions = new Map();
const http = createServer(async (request, response) => {
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport && request.headers["mcp-session-id"]) return response.writeHead(404).end();
  if (!transport) {
    const { port } = http.address();
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: memory(),
      retryInterval: 20,
      enableDnsRebindingProtection: true,
      allowedHosts: [`127.0.0.1:${port}`],
      onsessioninitialized: (id) => sessions.set(id, transport),
      onsessionclosed: (id) => sessions.delete(id),
    });
    await fixture().connect(transport);
  }
  await transport.handleRequest(request, response);
});
http.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ url: `http://127.0.0.1:${http.address().port}/mcp` })));
