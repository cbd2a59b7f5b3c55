// node client_v2.mjs URL '[{"tool": "echo", "arguments": {}}]' legacy|auto: the TypeScript SDK 2.x.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { play } from "./scenario.mjs";

const [url, calls, mode] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: "interop-ts-v2", version: "1.0.0" }, { versionNegotiation: { mode } });
await play(client, transport, JSON.parse(calls), () => client.getNegotiatedProtocolVersion());
