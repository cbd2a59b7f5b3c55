// node client_v1.mjs http|sse|ws: the TypeScript SDK 1.x, legacy era only, over each of its network transports.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { WebSocketClientTransport } from "@modelcontextprotocol/sdk/client/websocket.js";
import {
  CallToolResultSchema,
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ProgressNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { serve } from "./scenario.mjs";

const Transport = {
  http: StreamableHTTPClientTransport,
  sse: SSEClientTransport,
  ws: WebSocketClientTransport,
}[process.argv[2]];

await serve((url, answer) => {
  const transport = new Transport(url);
  // Only the transport for HTTP is told by the client what was negotiated.
  let version;
  transport.setProtocolVersion = ((before) => (negotiated) => {
    version = negotiated;
    before?.call(transport, negotiated);
  })(transport.setProtocolVersion);
  const capabilities = { elicitation: {}, sampling: {} };
  const client = new Client({ name: "interop-ts-v1", version: "1.0.0" }, { capabilities });
  for (const schema of [ElicitRequestSchema, CreateMessageRequestSchema]) {
    client.setRequestHandler(schema, ({ method, params }) => answer(method, params));
  }
  const callTool = (params, options) => client.callTool(params, CallToolResultSchema, options);
  const onProgress = (hear) => client.setNotificationHandler(ProgressNotificationSchema, hear);
  return { client, transport, callTool, onProgress, version: () => version };
});
