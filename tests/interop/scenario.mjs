// What every TypeScript client does: a script a line on standard input, what came of it a line on standard output.
//
// A script is {url, answers, steps}: `answers` maps what the client may be asked for (a method) to its result. A step is
// {do: "tools" | "resources" | "templates" | "prompts"}, {do: "call" | "cancel", name, arguments},
// {do: "read", uri} or {do: "prompt", name, arguments}. Of each step is told its `result` or `error`, what the client
// was `asked` meanwhile, and the `progress` it heard of; of the whole script the `version` that was negotiated.

import { createInterface } from "node:readline";

const TIMEOUT = 60_000;
const LISTS = {
  tools: ["listTools", "tools"],
  resources: ["listResources", "resources"],
  templates: ["listResourceTemplates", "resourceTemplates"],
  prompts: ["listPrompts", "prompts"],
};

const told = (error) => ({ code: error.code ?? null, message: String(error.message ?? error) });

async function list(client, method, field) {
  const items = [];
  let cursor;
  do {
    const page = await client[method](cursor === undefined ? {} : { cursor });
    items.push(...page[field]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return { [field]: items };
}

// A call that is cancelled is cancelled at its first progress: from then on the backend is known to be at it. With
// `onprogress` the SDK asks for progress; it gives up what comes in one piece with the result, so we listen beside it.
async function call(callTool, { name, arguments: args, do: what }, heard) {
  const abort = new AbortController();
  heard.act = () => what === "cancel" && abort.abort("taken back");
  const options = { onprogress: () => {}, signal: abort.signal, timeout: TIMEOUT };
  return callTool({ name, arguments: args ?? {} }, options);
}

async function perform(client, callTool, step, heard) {
  if (step.do in LISTS) return list(client, ...LISTS[step.do]);
  if (step.do === "read") return client.readResource({ uri: step.uri });
  if (step.do === "prompt") return client.getPrompt({ name: step.name, arguments: step.arguments ?? {} });
  return call(callTool, step, heard);
}

async function play({ client, transport, callTool, onProgress, version }, asked, steps) {
  const heard = { progress: [], act: () => {} };
  onProgress(({ params: { progressToken, ...found } }) => {
    heard.progress.push(found);
    heard.act();
  });
  try {
    await client.connect(transport);
    const outcomes = [];
    for (const step of steps) {
      asked.length = heard.progress.length = 0;
      const outcome = await perform(client, callTool, step, heard).then(
        (result) => ({ result }),
        (error) => ({ error: told(error) }),
      );
      outcomes.push({ ...outcome, asked: [...asked], progress: [...heard.progress] });
    }
    return { version: version(), steps: outcomes };
  } catch (error) {
    return { error: told(error) };
  } finally {
    await client.close().catch(() => {});
  }
}

/** Serve scripts until standard input ends; `open(url, answer)` makes a client that gives `answer(method, params)`. */
export async function serve(open) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { url, answers, steps } = JSON.parse(line);
    const asked = [];
    const answer = (method, params) => {
      asked.push({ method, params });
      return answers[method];
    };
    console.log(JSON.stringify(await play(open(new URL(url), answer), asked, steps)));
  }
  process.exit(0);
}
