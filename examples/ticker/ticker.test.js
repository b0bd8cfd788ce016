// Each process starts, works and stops when it is told.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { WebSocket } from "ws";

function run(script, env) {
  const child = spawn(process.execPath, [script], { env: { ...process.env, INTERVAL_MS: "20", ...env }, stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return { child, line: async () => (await lines.next()).value, ended: once(child, "exit") };
}

test("the page's process ticks, and tells its visitors when it stops", async () => {
  const port = 20000 + (process.pid % 20000);
  const web = run("web.js", { PORT: String(port) });
  assert.match(await web.line(), /^listening/);
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ticks`);
  const closed = once(socket, "close");
  const [message] = await once(socket, "message");
  assert.equal(typeof JSON.parse(message).tick, "number");
  web.child.kill("SIGTERM");
  assert.equal((await closed)[0], 1001);
  assert.deepEqual(await web.ended, [0, null]);
});

test("the worker counts, and ends when it is told", async () => {
  const worker = run("worker.js", {});
  assert.equal(await worker.line(), "tick 1 counted");
  worker.child.kill("SIGTERM");
  assert.deepEqual(await worker.ended, [0, null]);
});
