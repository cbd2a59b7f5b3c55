// node client_v1.mjs URL '[{"tool": "echo", "arguments": {}}]': the TypeScript SDK 1.x, legacy era only.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { play } from "./scenario.mjs";

const [url, calls] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: "interop-ts-v1", version: "1.0.0" });
await play(client, transport, JSON.parse(calls), () => transport.protocolVersion);
