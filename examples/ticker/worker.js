// Counts along, a line for each tick. It serves nobody and keeps nothing.

import { setTimeout as after } from "node:timers/promises";
import * as config from "./config.js";

const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());

let ticks = 0;
while (!stop.signal.aborted) {
  ticks += 1;
  console.log(`tick ${ticks} counted`);
  await after(config.intervalMs(), undefined, { signal: stop.signal }).catch(() => {});
}
console.log(`stopped after ${ticks}`);
