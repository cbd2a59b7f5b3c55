// node client_v2.mjs legacy|auto: the TypeScript SDK 2.x over Streamable HTTP.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { serve } from "./scenario.mjs";

await serve((url, answer) => {
  const transport = new StreamableHTTPClientTransport(url);
  const capabilities = { elicitation: {}, sampling: {} };
  const options = { capabilities, versionNegotiation: { mode: process.argv[2] } };
  const client = new Client({ name: "interop-ts-v2", version: "1.0.0" }, options);
  for (const method of ["elicitation/create", "sampling/createMessage"]) {
    client.setRequestHandler(method, ({ params }) => answer(method, params));
  }
  const callTool = (params, more) => client.callTool(params, more);
  const onProgress = (hear) => client.setNotificationHandler("notifications/progress", hear);
  return { client, transport, callTool, onProgress, version: () => client.getNegotiatedProtocolVersion() };
});
