// What both TypeScript clients do once they are connected: list everything, make the calls, report as one line.

const message = (error) => ({ code: error.code ?? null, message: String(error.message ?? error) });

async function listAll(client) {
  const tools = [];
  let cursor;
  do {
    const page = await client.listTools(cursor === undefined ? {} : { cursor });
    tools.push(...page.tools.map(({ name, inputSchema }) => ({ name, inputSchema })));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return tools;
}

async function callOne(client, { tool, arguments: args }) {
  try {
    return { tool, result: await client.callTool({ name: tool, arguments: args ?? {} }) };
  } catch (error) {
    return { tool, error: message(error) };
  }
}

/** Connect, list, call, print `{version, tools, results}` or `{error}`; exit 1 only if there is no connection. */
export async function play(client, transport, calls, version) {
  try {
    await client.connect(transport);
    const tools = await listAll(client);
    const results = [];
    for (const call of calls) {
      results.push(await callOne(client, call));
    }
    console.log(JSON.stringify({ version: version(), tools, results }));
    await client.close();
  } catch (error) {
    console.log(JSON.stringify({ error: message(error) }));
    process.exitCode = 1;
  }
}
