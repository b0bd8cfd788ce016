// All config, read once from the environment.

const whole = (name, fallback) => {
  const value = Number(process.env[name] ?? fallback);
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} must be a whole number above 0`);
  return value;
};

export const port = () => whole("PORT");
export const intervalMs = () => whole("INTERVAL_MS", 1000);
export const name = process.env.DYNO ?? "ticker";
