// The page, and a WebSocket that tells each visitor the time. State is in the connections only: any instance serves any visitor.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import * as config from "./config.js";

const GOING_AWAY = 1001;
// A visitor that does not answer the goodbye is left after this.
const PATIENCE_MS = 1000;
const page = await readFile(new URL("page.html", import.meta.url));

const server = createServer((request, response) => {
  const answer = (status, type, body) => response.writeHead(status, { "Content-Type": type }).end(body);
  const path = request.url.split("?")[0];
  if (path === "/healthz") answer(200, "text/plain", "ok\n");
  else if (path === "/") answer(200, "text/html; charset=utf-8", page);
  else answer(404, "text/plain", "There is nothing here.\n");
});

const sockets = new WebSocketServer({ server, path: "/ticks", maxPayload: 1024 });
sockets.on("connection", (socket) => {
  console.log(`visitor joins, ${sockets.clients.size} here`);
  socket.on("error", (error) => console.log(`visitor fails: ${error.message}`));
  socket.on("close", (code) => console.log(`visitor leaves with ${code}`));
});

let ticks = 0;
const ticking = setInterval(() => {
  ticks += 1;
  const message = JSON.stringify({ tick: ticks, time: new Date().toISOString(), from: config.name });
  for (const socket of sockets.clients) socket.send(message);
}, config.intervalMs());

// The platform asks it to stop. Visitors are told, what was begun is finished, and the process ends by itself, with 0.
process.once("SIGTERM", () => {
  console.log(`stopping: ${sockets.clients.size} visitors are told`);
  clearInterval(ticking);
  server.close(() => console.log("stopped"));
  for (const socket of sockets.clients) socket.close(GOING_AWAY, "this instance stops");
  sockets.close();
  setTimeout(() => sockets.clients.forEach((socket) => socket.terminate()), PATIENCE_MS).unref();
  server.closeIdleConnections();
});

server.listen(config.port(), () => console.log(`listening on ${config.port()}`));
